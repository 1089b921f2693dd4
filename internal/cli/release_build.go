// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/config"
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
		return hostErrors(err, len(hosts))
	})
	if err != nil {
		return nil, source, err
	}
	var paths map[fleet.MachineID]fleet.StorePath
	err = w.step("build", fmt.Sprintf("building %d systems", len(drvs)), func() (err error) {
		paths, err = flake.Build(ctx, drvs, func(line string) { w.Say("  %s", line) })
		return hostErrors(err, len(hosts))
	})
	if err != nil {
		return nil, source, err
	}
	var entries []fleet.Entry
	err = w.step("closures", "reading closures", func() (err error) {
		entries, err = entriesOf(ctx, paths)
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
		if hosts, err = selectHosts(hosts, w.o.on); err != nil {
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
	if w.o.root == "" {
		return nil, fleet.Source{}, fleet.Errorf(fleet.Refused, "--from signs an older release again, and without the fleet's root document nothing shows who signed it").
			WithHint("give --root FILE, or set root in %s", projectFile)
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
	keep, err := pick(w.o.on, old.Entries, func(e fleet.Entry) (fleet.MachineID, []fleet.Tag) { return e.ID, e.Tags })
	if err != nil {
		return nil, fleet.Source{}, err
	}
	if len(keep) == 0 {
		return nil, fleet.Source{}, fleet.Errorf(fleet.NotFound, "no machine of release %s matches %s", d.Digest.Short(), strings.Join(w.o.on, ","))
	}
	return keep, old.Header.Source, nil
}

// selectHosts applies --on. Tags are part of a system and are not known before it
// is built.
func selectHosts(hosts []nix.FlakeHost, on []string) ([]nix.FlakeHost, error) {
	for _, term := range on {
		if strings.HasPrefix(strings.TrimPrefix(term, "!"), "@") {
			return nil, command.Usagef("--on %s: hosts of a flake are selected by name; their tags are not known before they are built", term)
		}
	}
	selected, err := pick(on, hosts, func(h nix.FlakeHost) (fleet.MachineID, []fleet.Tag) { return h.ID, nil })
	if err != nil {
		return nil, fleet.Errorf(fleet.ErrorCode(err), "--on: %w", err).WithHint("the flake declares %s", hostNames(hosts))
	}
	if len(selected) == 0 {
		return nil, fleet.Errorf(fleet.NotFound, "--on %s selects no host", strings.Join(on, ",")).WithHint("the flake declares %s", hostNames(hosts))
	}
	return selected, nil
}

// pick returns the items that the terms select. A term that matches nothing is an
// error: it is likely a typo (O03).
func pick[T any](terms []string, from []T, facts func(T) (fleet.MachineID, []fleet.Tag)) ([]T, error) {
	sel, err := fleet.ParseSelector(terms)
	if err != nil {
		return nil, err
	}
	if t, ok := sel.Unmatched(func(yield func(fleet.MachineID, []fleet.Tag) bool) {
		for _, v := range from {
			if !yield(facts(v)) {
				return
			}
		}
	}); ok {
		return nil, fleet.Errorf(fleet.NotFound, "%s matches nothing", t)
	}
	return slices.DeleteFunc(slices.Clone(from), func(v T) bool { return !sel.Match(facts(v)) }), nil
}

func hostNames(hosts []nix.FlakeHost) string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = string(h.ID)
	}
	if len(names) > 20 {
		names = append(names[:20], fmt.Sprintf("and %d more", len(hosts)-20))
	}
	return strings.Join(names, ", ")
}

// hostErrors joins the errors of several hosts, each on lines of its own.
func hostErrors(err error, hosts int) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err
	}
	n := len(joined.Unwrap())
	return fleet.Errorf(fleet.Invalid, "%d of %d hosts failed:\n%w", n, hosts, err).WithHint("nothing was registered")
}

// entriesOf makes the entries of built systems from their closures and their
// agent's configuration.
func entriesOf(ctx context.Context, paths map[fleet.MachineID]fleet.StorePath) ([]fleet.Entry, error) {
	var entries []fleet.Entry
	for _, id := range slices.Sorted(maps.Keys(paths)) {
		closure, err := nix.Closure(ctx, paths[id])
		if err != nil {
			return nil, err
		}
		e := fleet.Entry{ID: id, StorePath: paths[id], ClosureDigest: fleet.ClosureDigest(closure)}
		for _, p := range closure {
			e.ClosureSize += p.NarSize
			if p.Path == e.StorePath {
				e.NarHash = p.NarHash
			}
		}
		if e.System, err = nix.SystemPlatform(string(e.StorePath)); err != nil {
			return nil, err
		}
		if e.Fingerprints, err = nix.Fingerprints(string(e.StorePath)); err != nil {
			return nil, err
		}
		agent, err := config.ReadAgent(string(e.StorePath) + "/" + config.AgentFile)
		switch {
		case fleet.ErrorCode(err) == fleet.NotFound:
			return nil, fleet.Errorf(fleet.Invalid, "the system of %s has no agent: %w", id, err).
				WithHint("enable services.nixfleet-agent on it, or leave it out with --on '!%s'", id)
		case err != nil:
			return nil, err
		case agent.MachineID != id:
			return nil, fleet.Errorf(fleet.Invalid, "the agent in the system of %s has the machine id %s", id, agent.MachineID).
				WithHint("set services.nixfleet-agent.machineId to the name of the host in the flake")
		}
		e.Tags = agent.Tags
		entries = append(entries, e)
	}
	return entries, nil
}
