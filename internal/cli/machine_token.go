// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// tokenOptions are the options of `machine token`.
type tokenOptions struct {
	req        api.TokenRequest
	ttl        time.Duration
	line, root string
}

// madeToken is the result of `machine token`.
type madeToken struct {
	api.Token
	Line  fleet.Line  `json:"line"`
	Floor *trust.Mark `json:"floor"` // null: no release yet, or no root document to check one with
}

func (a *app) machineTokenCmd() *cobra.Command {
	var o tokenOptions
	c := &cobra.Command{
		Use: "token MACHINE", Short: "Make a one-time token with which a machine enrols",
		Long: `Make a one-time token with which a machine enrols.

Put it on the machine in the file that services.nixfleet-agent.identity.tokenFile names, or give
it to nixfleet-agent enroll. It is not shown again, and enrols one machine, of this name, once.

The token is one line: the secret and, after a dot, the newest release of the line, checked here
with the fleet's root document. The machine then accepts no older one. Without a root document the
token has no floor, and nixfleet-agent adopt-floor must give the machine one.`,
		Example: "  nixfleet machine token web-01",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			if o.ttl < time.Second {
				return command.Usagef("--ttl %s must be at least a second", o.ttl)
			}
			o.req.TTLSeconds = int64(o.ttl.Seconds())
			p, err := a.readProject()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("line") {
				o.line = p.Line
			}
			if !cmd.Flags().Changed("root") {
				o.root = p.Root
			}
			if !fleet.Line(o.line).Valid() {
				return command.Usagef("--line %q must have the syntax of a host name", o.line)
			}
			return a.makeToken(cmd.Context(), c, id, o, p.FleetID)
		},
	}
	c.Flags().DurationVar(&o.ttl, "ttl", 24*time.Hour, "how long the token is valid")
	c.Flags().BoolVar(&o.req.Replace, "replace", false, "the machine is enrolled already and was installed again: its certificate is revoked when the token is used")
	c.Flags().StringVar(&o.line, "line", "", `the machine's release train (nixfleet.toml: line; default "main")`)
	c.Flags().StringVar(&o.root, "root", "", "the fleet's root document, which the newest release is checked with (nixfleet.toml: root)")
	return c
}

// makeToken makes a token and adds the floor.
func (a *app) makeToken(ctx context.Context, c *api.Client, id fleet.MachineID, o tokenOptions, fleetID string) error {
	out := madeToken{Line: fleet.Line(o.line)}
	var floor *api.TokenFloor
	if o.root != "" {
		envelope, head, err := a.verifiedHead(ctx, c, o, fleetID)
		if err != nil {
			return err
		}
		floor = &api.TokenFloor{Line: out.Line, Release: envelope, Expires: time.Now().Add(o.ttl).UnixMilli()}
		if head.Digest != "" {
			out.Floor = &head
		}
	}
	var err error
	if out.Token, err = c.CreateToken(ctx, id, o.req); err != nil {
		return err
	}
	t, err := api.ParseToken(out.Token.Token)
	if err != nil {
		return err
	}
	t.Floor = floor // never one that the control plane may have added
	out.Token.Token = t.String()
	if floor == nil {
		a.Say("warning: no root document is named, so the token has no floor, and %s will accept no release: give --root, or set root in %s; else run nixfleet-agent adopt-floor there", id, projectFile)
	}
	return a.Print(out, func(w io.Writer) {
		fmt.Fprintln(w, out.Token.Token)
		a.Say("enrols %s once, until %s", out.Machine, view.Date(out.ExpiresAt))
		switch {
		case floor == nil:
		case out.Floor == nil:
			a.Say("line %s has no release yet: %s accepts any as its first", out.Line, id)
		default:
			a.Say("%s accepts releases of line %s from sequence %d (%s) on", id, out.Line, out.Floor.Sequence, out.Floor.Digest.Short())
		}
	})
}

// verifiedHead returns the signed header of the newest release of a line; the zero
// Mark if there is none. It is verified with the local root document.
func (a *app) verifiedHead(ctx context.Context, c *api.Client, o tokenOptions, fleetID string) ([]byte, trust.Mark, error) {
	text, err := a.readFile(o.root, 1<<20)
	if err != nil {
		return nil, trust.Mark{}, err
	}
	root, err := trust.PinRoot(text)
	if err != nil {
		return nil, trust.Mark{}, err
	}
	if fleetID != "" && fleetID != root.FleetID {
		return nil, trust.Mark{}, fleet.Errorf(fleet.Refused, "%s is of fleet %s, and %s is for fleet %s", o.root, root.FleetID, projectFile, fleetID).
			WithHint("give the right --root")
	}
	at, err := a.seen()
	if err != nil {
		return nil, trust.Mark{}, err
	}
	return at.Newest(ctx, c, fleet.Line(o.line), root)
}
