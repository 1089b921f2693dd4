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
	"github.com/arcanesys/nixfleet/internal/cli/undo"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// work is one run of `release create`.
type work struct {
	*app
	o     createOptions
	root  fleet.Root       // by which older releases count
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

func (w *work) entries(ctx context.Context, c *api.Client) ([]fleet.Entry, fleet.Source, error) {
	if w.o.from != "" {
		return w.entriesFrom(ctx, c)
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

// entriesFrom returns the entries of an older release, for --from.
func (w *work) entriesFrom(ctx context.Context, c *api.Client) ([]fleet.Entry, fleet.Source, error) {
	d, err := w.findRelease(ctx, c, w.o.from)
	if err != nil {
		return nil, fleet.Source{}, err
	}
	old, err := undo.SignedRelease(ctx, c, d.Digest, w.root)
	if err != nil {
		return nil, fleet.Source{}, err
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

// register signs and registers the release. If another operator registered one
// in the meantime, it is signed again with the next sequence.
func (w *work) register(ctx context.Context, c *api.Client, root fleet.Root, signers []trust.Signer, h fleet.Header, entries []fleet.Entry) (fleet.Digest, error) {
	var digest fleet.Digest
	err := w.step("register", "signing and registering", func() error {
		for try := 1; ; try++ {
			payload, raw, err := trust.NewRelease(h, entries)
			if err != nil {
				return err
			}
			envelope, err := trust.Sign(fleet.TypeRelease, payload, signers...)
			if err != nil {
				return err
			}
			checked, err := trust.CheckRelease(envelope.Encode(), raw, &root, time.Now().UnixMilli())
			if err != nil {
				return err
			}
			digest = checked.Digest
			_, err = c.CreateRelease(ctx, api.ReleaseRequest{Envelope: envelope.Encode(), Entries: raw})
			if fleet.ErrorCode(err) != fleet.Conflict || try == 3 {
				return err
			}
			last, lerr := latest(ctx, c, h.Line)
			if lerr != nil || last == nil || last.Header.Sequence < h.Sequence {
				return err
			}
			h.Sequence, h.PreviousDigest = last.Header.Sequence+1, last.Digest
		}
	})
	if err != nil {
		return "", err
	}
	at, err := w.app.seen()
	if err == nil {
		err = at.Keep(trust.Mark{Line: h.Line, Sequence: h.Sequence, Digest: digest})
	}
	if err != nil {
		w.app.Say("warning: %v", err) // the release is registered
	}
	return digest, nil
}
