// SPDX-License-Identifier: MIT

// Package systems says which hosts of a flake, and which entries of a release, an
// operator names, and makes entries of systems that were built.
//
// It never evaluates or builds.
package systems

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// Select applies --on. Tags are part of a system and are not known before it
// is built.
func Select(hosts []nix.FlakeHost, on []string) ([]nix.FlakeHost, error) {
	for _, term := range on {
		if strings.HasPrefix(strings.TrimPrefix(term, "!"), "@") {
			return nil, command.Usagef("--on %s: hosts of a flake are selected by name; their tags are not known before they are built", term)
		}
	}
	selected, err := Pick(on, hosts, func(h nix.FlakeHost) (fleet.MachineID, []fleet.Tag) { return h.ID, nil })
	if err != nil {
		return nil, fleet.Errorf(fleet.ErrorCode(err), "--on: %w", err).WithHint("the flake declares %s", namesOf(hosts))
	}
	if len(selected) == 0 {
		return nil, fleet.Errorf(fleet.NotFound, "--on %s selects no host", strings.Join(on, ",")).WithHint("the flake declares %s", namesOf(hosts))
	}
	return selected, nil
}

// Pick returns the items that the terms select. A term that matches nothing is an
// error: it is likely a typo (O03).
func Pick[T any](terms []string, from []T, facts func(T) (fleet.MachineID, []fleet.Tag)) ([]T, error) {
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

func namesOf(hosts []nix.FlakeHost) string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = string(h.ID)
	}
	if len(names) > 20 {
		names = append(names[:20], fmt.Sprintf("and %d more", len(hosts)-20))
	}
	return strings.Join(names, ", ")
}

// Errors joins the errors of several hosts, each on lines of its own.
func Errors(err error, hosts int) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err
	}
	n := len(joined.Unwrap())
	return fleet.Errorf(fleet.Invalid, "%d of %d hosts failed:\n%w", n, hosts, err).WithHint("nothing was registered")
}

// Entries makes the entries of built systems from their closures and their
// agent's configuration.
func Entries(ctx context.Context, paths map[fleet.MachineID]fleet.StorePath) ([]fleet.Entry, error) {
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
