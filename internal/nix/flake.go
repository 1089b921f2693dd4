// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Flake is a flake that holds a fleet, in Nix's own notation: a path, path:...,
// git+ssh://..., github:owner/repo.
type Flake struct {
	Ref string
	// Options are given to every nix program, such as --override-input.
	Options []string
	// Workers bounds how many hosts are evaluated at once; 0 means 2.
	Workers int
}

// Platform says which attribute set of a flake a host is in.
type Platform string

// The platforms of hosts, by their attribute set.
const (
	NixOS  Platform = "nixosConfigurations"
	Darwin Platform = "darwinConfigurations"
)

// FlakeHost is a host that a flake declares.
type FlakeHost struct {
	ID       fleet.MachineID `json:"id"`
	Platform Platform        `json:"platform"`
}

// HostError is why one host could not be evaluated or built (O04).
type HostError struct {
	Host fleet.MachineID
	Step string // evaluate, build
	Text string // the last lines of what Nix printed
}

// Error names the host, the step and the cause.
func (e *HostError) Error() string { return e.Step + " " + string(e.Host) + ": " + e.Text }

// flags are given to each nix program of the new command line.
func (f Flake) flags(args ...string) []string {
	return append(append([]string{"--extra-experimental-features", "nix-command flakes"}, args...), f.Options...)
}

// Hosts lists the hosts of the flake, sorted by id. A name that is not a machine id
// is an error, since such a host cannot be in a release.
func (f Flake) Hosts(ctx context.Context) ([]FlakeHost, error) {
	var hosts []FlakeHost
	for _, p := range []Platform{NixOS, Darwin} {
		res, err := proc.Run(ctx, proc.Cmd{
			Path: "nix", Timeout: 10 * time.Minute,
			Args: f.flags("eval", "--json", f.attr(string(p)), "--apply", "builtins.attrNames"),
		})
		if err != nil && strings.Contains(string(res.Stderr), "does not provide attribute") {
			continue
		}
		if err != nil {
			return nil, f.fault("read flake "+f.Ref, res, err)
		}
		var names []string
		if err := json.Unmarshal(res.Stdout, &names); err != nil {
			return nil, fleet.Errorf(fleet.Internal, "read flake %s: names of %s: %w", f.Ref, p, err)
		}
		for _, n := range names {
			id, err := fleet.ParseMachineID(n)
			if err != nil {
				return nil, fleet.Errorf(fleet.Invalid, "flake %s: %s.%s: %w", f.Ref, p, strconv.Quote(n), err).WithHint("rename it: %s", fleet.ErrorHint(err))
			}
			hosts = append(hosts, FlakeHost{ID: id, Platform: p})
		}
	}
	if len(hosts) == 0 {
		return nil, fleet.Errorf(fleet.NotFound, "flake %s declares no nixosConfigurations and no darwinConfigurations", f.Ref).
			WithHint("nix flake init -t github:arcanesys/nixfleet makes a flake that does")
	}
	slices.SortFunc(hosts, func(a, b FlakeHost) int { return strings.Compare(string(a.ID), string(b.ID)) })
	for i := 1; i < len(hosts); i++ {
		if hosts[i].ID == hosts[i-1].ID {
			return nil, fleet.Errorf(fleet.Invalid, "flake %s declares %s twice: as NixOS and as Darwin", f.Ref, hosts[i].ID)
		}
	}
	return hosts, nil
}

// Evaluate instantiates the hosts' systems, several at the same time, each in a
// process of its own; done is called after each. It evaluates all hosts: the error
// joins a *HostError for each that failed, and the map has the others.
func (f Flake) Evaluate(ctx context.Context, hosts []FlakeHost, done func(FlakeHost, time.Duration, error)) (map[fleet.MachineID]string, error) {
	workers := f.Workers
	if workers <= 0 {
		workers = 2
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		drvs = map[fleet.MachineID]string{}
		errs = map[fleet.MachineID]error{}
		work = make(chan FlakeHost)
	)
	for range min(workers, len(hosts)) {
		wg.Go(func() {
			for h := range work {
				begin := time.Now()
				drv, err := f.instantiate(ctx, h)
				mu.Lock()
				if err != nil {
					errs[h.ID] = err
				} else {
					drvs[h.ID] = drv
				}
				done(h, time.Since(begin), err)
				mu.Unlock()
			}
		})
	}
	for _, h := range hosts {
		work <- h
	}
	close(work)
	wg.Wait()
	return drvs, joinByHost(ctx, errs)
}

func (f Flake) instantiate(ctx context.Context, h FlakeHost) (string, error) {
	res, err := proc.Run(ctx, proc.Cmd{
		Path: "nix", MaxOutput: 64 << 10,
		Args: f.flags("eval", "--raw", f.attr(string(h.Platform)+"."+strconv.Quote(string(h.ID))+".config.system.build.toplevel.drvPath")),
	})
	if err != nil {
		return "", &HostError{Host: h.ID, Step: "evaluate", Text: lastLines(res, err)}
	}
	drv := strings.TrimSpace(string(res.Stdout))
	if !strings.HasPrefix(drv, fleet.StoreDir+"/") || !strings.HasSuffix(drv, ".drv") {
		return "", &HostError{Host: h.ID, Step: "evaluate", Text: "config.system.build.toplevel is not a derivation"}
	}
	return drv, nil
}

// Build builds what Evaluate found and returns the systems' store paths. With
// several failures the error joins a *HostError for each.
func (f Flake) Build(ctx context.Context, drvs map[fleet.MachineID]string, onLine func(string)) (map[fleet.MachineID]fleet.StorePath, error) {
	ids := slices.Sorted(maps.Keys(drvs))
	args := []string{"--realise", "--keep-going"}
	for _, id := range ids {
		args = append(args, drvs[id])
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: args, MaxOutput: 4 << 20, OnLine: func(s proc.Stream, line string) {
		if s == proc.Stderr && strings.HasPrefix(line, "building ") {
			onLine(line)
		}
	}})
	out := map[fleet.MachineID]fleet.StorePath{}
	if err == nil {
		lines := strings.Fields(string(res.Stdout))
		if len(lines) != len(ids) {
			return nil, fleet.Errorf(fleet.Internal, "nix-store printed %d paths for %d systems", len(lines), len(ids))
		}
		for i, id := range ids {
			if out[id], err = fleet.ParseStorePath(lines[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	if len(ids) == 1 || ctx.Err() != nil {
		return nil, joinByHost(ctx, map[fleet.MachineID]error{ids[0]: &HostError{Host: ids[0], Step: "build", Text: lastLines(res, err)}})
	}
	// To find out which of them failed, build each by itself; most are built already.
	errs := map[fleet.MachineID]error{}
	for _, id := range ids {
		if p, err := f.Build(ctx, map[fleet.MachineID]string{id: drvs[id]}, onLine); err != nil {
			errs[id] = err
		} else {
			out[id] = p[id]
		}
	}
	return out, joinByHost(ctx, errs)
}

// Describe returns the flake's revision, whether it is dirty, and the digest of its
// lock file, as far as Nix knows them.
func (f Flake) Describe(ctx context.Context) (fleet.Source, error) {
	m, err := f.metadata(ctx)
	if err != nil {
		return fleet.Source{}, err
	}
	s := fleet.Source{Flake: f.Ref, Revision: m.Revision, LockDigest: fleet.SHA256(m.Locks), NixpkgsDate: nixpkgsDate(m.Locks)}
	s.Dirty = s.Revision == "" && (m.DirtyRevision != "" || m.Resolved.Type == "git")
	if s.Dirty {
		s.Revision = strings.TrimSuffix(m.DirtyRevision, "-dirty")
	}
	return s, nil
}

// metadata is what Nix says about a flake once it has its source.
type metadata struct {
	Path          string          `json:"path"` // of the source, in the store
	Revision      string          `json:"revision"`
	DirtyRevision string          `json:"dirtyRevision"`
	Locks         json.RawMessage `json:"locks"`
	Resolved      struct {
		Type string `json:"type"`
	} `json:"resolved"`
}

func (f Flake) metadata(ctx context.Context) (metadata, error) {
	var m metadata
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Timeout: 10 * time.Minute, Args: f.flags("flake", "metadata", "--json", f.Ref)})
	if err != nil {
		return m, f.fault("read flake "+f.Ref, res, err)
	}
	if err := json.Unmarshal(res.Stdout, &m); err != nil {
		return m, fleet.Errorf(fleet.Internal, "read flake %s: metadata: %w", f.Ref, err)
	}
	return m, nil
}

// nixpkgsDate is the date of the root's nixpkgs input, from a lock file, or "".
func nixpkgsDate(locks json.RawMessage) string {
	var l struct {
		Nodes map[string]struct {
			Inputs map[string]json.RawMessage `json:"inputs"`
			Locked struct {
				LastModified int64 `json:"lastModified"`
			} `json:"locked"`
		} `json:"nodes"`
		Root string `json:"root"`
	}
	if json.Unmarshal(locks, &l) != nil {
		return ""
	}
	var node string
	if json.Unmarshal(l.Nodes[l.Root].Inputs["nixpkgs"], &node) != nil {
		return ""
	}
	at := time.Unix(l.Nodes[node].Locked.LastModified, 0).UTC()
	if at.Unix() == 0 || at.Year() < 1 || at.Year() > 9999 { // others have no such form
		return ""
	}
	return at.Format(time.DateOnly)
}

func (f Flake) attr(path string) string { return f.Ref + "#" + path }

// NormalRef returns the flake reference for what a user typed: a folder becomes an
// absolute path. Nix itself finds out whether it is in a git work tree.
func NormalRef(ref string) (string, error) {
	if strings.Contains(ref, ":") {
		return ref, nil
	}
	return filepath.Abs(ref)
}

func (f Flake) fault(what string, res proc.Result, err error) error {
	if errors.Is(err, proc.ErrNotFound) {
		return fleet.Errorf(fleet.Unavailable, "%s: there is no nix program", what).
			WithHint("install Nix (https://nixos.org/download), or on Debian: apt-get install nix-bin")
	}
	return fleet.Errorf(fleet.Invalid, "%s: %s", what, lastLines(res, err))
}

// lastLines returns what a person needs of Nix's output: the last lines of its
// errors.
func lastLines(res proc.Result, err error) string {
	if errors.Is(err, proc.ErrNotFound) {
		return "there is no nix program; install Nix, or on Debian: apt-get install nix-bin"
	}
	var lines []string
	for _, l := range strings.Split(fleet.CleanText(string(res.Stderr), 16<<10), "\n") {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "warning:") || strings.Contains(l, "use '--show-trace'") || strings.HasPrefix(l, "this derivation will be built") {
			continue
		}
		lines = append(lines, strings.TrimPrefix(l, "error: "))
	}
	if len(lines) == 0 {
		return err.Error()
	}
	return strings.Join(lines[max(0, len(lines)-8):], "\n  ")
}

func joinByHost(ctx context.Context, errs map[fleet.MachineID]error) error {
	if len(errs) == 0 {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	list := make([]error, 0, len(errs))
	for _, id := range slices.Sorted(maps.Keys(errs)) {
		list = append(list, errs[id])
	}
	return errors.Join(list...)
}
