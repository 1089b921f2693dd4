// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/internal/cli/view"
)

// controlPlane is what `info` prints: what the control plane says of itself, and
// where it is.
type controlPlane struct {
	Server string `json:"server"`
	api.Info
	// ClockAheadMs is by how much its clock is ahead of the clock here.
	ClockAheadMs int64 `json:"clockAheadMs"`
}

func (a *app) infoCmd() *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "Show which control plane is used: its version, fleet, mode and clock",
		Long: `Show which control plane is used: its version, fleet, mode and clock.

It needs no API key. Mode restored means that the database is older than what the fleet has seen:
rollouts are paused, and nixfleet-control-plane doctor says what to do.`,
		Example: "  nixfleet info --json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.findServer()
			if err != nil {
				return err
			}
			s.Key = "" // none is needed, so none is sent
			c, err := a.connect(s)
			if err != nil {
				return err
			}
			asked := time.Now()
			info, err := c.Info(cmd.Context())
			if err != nil {
				return err
			}
			here := asked.Add(time.Since(asked) / 2)
			out := controlPlane{Server: s.URL, Info: info, ClockAheadMs: info.Time - here.UnixMilli()}
			return a.Print(out, func(w io.Writer) {
				fleetID := info.FleetID
				if fleetID == "" {
					fleetID = "none yet; nixfleet trust pin names it"
				}
				fmt.Fprintf(w, "server   %s\nversion  %s\nfleet    %s\nmode     %s\n", out.Server, info.Version, fleetID, info.Mode)
				if info.Frozen {
					fmt.Fprintln(w, "frozen   no machine is ordered anything new; nixfleet rollout explain says why, nixfleet unfreeze ends it")
				}
				fmt.Fprintf(w, "clock    %s, %s ahead of this machine's\n", view.Date(info.Time), time.Duration(out.ClockAheadMs)*time.Millisecond)
			})
		},
	}
}
