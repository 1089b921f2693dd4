// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

func (p *program) doctorCommand() *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the control plane",
		Long: "Look for what is wrong with the control plane. Exit code 1 if there is an error among the findings.\n\n" +
			"A database that is older than what agents remember was restored from a backup: rollouts stay paused\n" +
			"until --accept-restored says, with the control plane stopped, that it is to go on with it.",
		Example: "  nixfleet-control-plane doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.ReadControlPlane(p.file)
			if err != nil {
				return err
			}
			if accept {
				if err = acceptRestored(c.Context(), conf); err != nil {
					return err
				}
			}
			found, err := examine(c.Context(), conf)
			if err != nil {
				return err
			}
			if err := p.Print(map[string][]health.Finding{"findings": found}, func(w io.Writer) { findingsText(w, found) }); err != nil {
				return err
			}
			for _, f := range found {
				if f.Severity == "error" {
					return fleet.Errorf(fleet.Conflict, "the control plane has a problem: %s", f.Message).WithHint("%s", f.Hint)
				}
			}
			return nil
		},
	}
	p.JSONFlag(c.Flags())
	c.Flags().BoolVar(&accept, "accept-restored", false, "go on with a database that was restored from a backup; the control plane must be stopped")
	return c
}

// acceptRestored ends the restored mode of a control plane that does not run.
func acceptRestored(ctx context.Context, conf config.ControlPlane) error {
	epoch, err := pki.EpochKey(conf.StateDir)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath()})
	if err != nil {
		return err
	}
	p, err := plane.Open(ctx, plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), EpochKey: epoch})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	return errors.Join(p.Epoch.Accept(ctx, "administrator"), p.Close(), st.Close())
}

// examine looks at the database, opened for reading only.
func examine(ctx context.Context, conf config.ControlPlane) ([]health.Finding, error) {
	epoch, err := pki.EpochKey(conf.StateDir)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath(), ReadOnly: true})
	if err != nil {
		return nil, err
	}
	p, err := plane.Open(ctx, plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), EpochKey: epoch, Renewal: renewal(conf.TLS)})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	found, err := p.Health.Doctor(ctx)
	// The plane is not closed: that writes what is in memory, and nothing is.
	return found, errors.Join(err, st.Close())
}

func findingsText(w io.Writer, found []health.Finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%s: %s: %s\n", f.Severity, f.Subject, f.Message)
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", f.Hint)
		}
	}
	if len(found) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
}
