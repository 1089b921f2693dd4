// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/systems"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// work is one run of `release create`.
type work struct {
	*app
	o     createOptions
	spent map[string]int64 // by step, milliseconds
}

// step runs f, and reports how long it takes.
func (w *work) step(name, what string, f func() error) error {
	w.Say("%s ...", what)
	begin := time.Now()
	err := f()
	d := time.Since(begin)
	w.spent[name] = d.Milliseconds()
	if err == nil {
		w.Say("%s: done in %s", what, d.Round(10*time.Millisecond))
	}
	return err
}

func (w *work) entries(ctx context.Context, c *api.Client, root fleet.Root) ([]fleet.Entry, fleet.Source, error) {
	if w.o.from != "" {
		return w.entriesFrom(ctx, c, root)
	}
	flake := w.o.nixFlake()
	hosts, source, err := w.hosts(ctx, flake)
	if err != nil {
		return nil, source, err
	}
	var drvs map[fleet.MachineID]string
	err = w.step("evaluate", fmt.Sprintf("evaluating %d hosts", len(hosts)), func() (err error) {
		n := 0
		drvs, err = flake.Evaluate(ctx, hosts, func(h nix.FlakeHost, d time.Duration, err error) {
			n++
			result := "ok"
			if err != nil {
				result = "failed"
			}
			w.Say("  %d/%d %s %s in %s", n, len(hosts), h.ID, result, d.Round(10*time.Millisecond))
		})
		return systems.Errors(err, len(hosts))
	})
	if err != nil {
		return nil, source, err
	}
	var paths map[fleet.MachineID]fleet.StorePath
	err = w.step("build", fmt.Sprintf("building %d systems", len(drvs)), func() (err error) {
		paths, err = flake.Build(ctx, drvs, func(line string) { w.Say("  %s", line) })
		return systems.Errors(err, len(hosts))
	})
	if err != nil {
		return nil, source, err
	}
	var entries []fleet.Entry
	err = w.step("closures", "reading closures", func() (err error) {
		entries, err = systems.Entries(ctx, paths)
		return err
	})
	if err != nil || w.o.push == "" || w.o.dryRun {
		return entries, source, err
	}
	err = w.step("push", "pushing to "+w.o.push, func() error {
		return nix.Push{To: w.o.push, SecretKeyFile: w.o.pushKey}.Run(ctx, slices.Sorted(maps.Values(paths)), func(string) {})
	})
	return entries, source, err
}

// hosts returns the hosts of the flake that --on selects, and where they come from.
func (w *work) hosts(ctx context.Context, flake nix.Flake) (hosts []nix.FlakeHost, source fleet.Source, err error) {
	err = w.step("flake", "reading flake "+flake.Ref, func() (err error) {
		if !flake.Local() {
			if err = refuseSecretKeys(ctx, flake); err != nil {
				return err
			}
		}
		if hosts, err = flake.Hosts(ctx); err != nil {
			return err
		}
		if hosts, err = systems.Select(hosts, w.o.on); err != nil {
			return err
		}
		source, err = flake.Describe(ctx)
		return err
	})
	return hosts, source, err
}

// entriesFrom returns the entries of an older release, for --from. They are signed
// again, so they count only as they were signed before: what the control plane
// says of them is no system that a release signer chose. It may have expired.
func (w *work) entriesFrom(ctx context.Context, c *api.Client, root fleet.Root) ([]fleet.Entry, fleet.Source, error) {
	if err := w.o.needsRoot("--from"); err != nil {
		return nil, fleet.Source{}, err
	}
	d, err := w.documents().Verified(ctx, c, w.o.from, root)
	if err != nil {
		return nil, fleet.Source{}, err
	}
	old, err := trust.CheckAgain(d.Envelope, d.Entries, root, d.Digest)
	if err != nil {
		return nil, fleet.Source{}, fleet.Errorf(fleet.Refused, "release %s, as the control plane sent it, is not what was signed: %w", d.Digest.Short(), err).
			WithHint("a key that is limited to tags gets a part of it only, which proves nothing; or build the systems again, from the older revision of the flake")
	}
	keep, err := systems.Pick(w.o.on, old.Entries, func(e fleet.Entry) (fleet.MachineID, []fleet.Tag) { return e.ID, e.Tags })
	if err != nil {
		return nil, fleet.Source{}, err
	}
	if len(keep) == 0 {
		return nil, fleet.Source{}, fleet.Errorf(fleet.NotFound, "no machine of release %s matches %s", d.Digest.Short(), strings.Join(w.o.on, ","))
	}
	return keep, old.Header.Source, nil
}
