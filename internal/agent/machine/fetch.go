// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Limits of a fetch.
const (
	stallLimit = 2 * time.Minute
	roomMargin = 64 << 20 // bytes that must stay free
	maxTries   = 20       // of a fetch whose order has no deadline
	maxBadTry  = 2        // of a fetch that delivered what was not signed
)

func (m *Machine) fetch(ctx context.Context, j states.Journal) states.Input {
	work := j.Work
	if n := work.Tries; n > 0 && !wait.For(ctx, wait.Spread(fetchWait(n))) {
		return nil
	}
	in := m.fetchClosure(ctx, work.Accepted, targetRoot, time.UnixMilli(work.Began.WallMs))
	switch f := in.(type) {
	case states.Failed:
		switch f.Reason {
		case fleet.ReasonBadCacheSig, fleet.ReasonNarHashMismatch:
			f.Again = work.Tries < maxBadTry
		default:
			f.Again = work.Tries < maxTries
		}
		m.log.Warn("the fetch failed", "reason", f.Reason, "again", f.Again, "error", f.Message)
		m.failedFetch(ctx, !f.Again)
		return f
	case states.Refused:
		m.failedFetch(ctx, true)
	}
	return in
}

// fetchWait is the wait before a fetch after so many tries.
func fetchWait(tries int) time.Duration { return min(time.Minute, time.Second<<min(tries, 6)) }

// GC roots of what is fetched and does not run yet.
const (
	targetRoot   = "target"
	prefetchRoot = "prefetch"
)

// fetchClosure copies a release's system into the store and compares it with what
// was signed. began is when the attempt began.
func (m *Machine) fetchClosure(ctx context.Context, a trust.Accepted, root string, began time.Time) states.Input {
	e := a.Entry
	w, err := m.beginFetch(ctx, a)
	if err != nil {
		return fetchFailed(err)
	}
	if err = nix.SetRoot(nix.RootsDir, root, e.StorePath); err != nil {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: err.Error()}
	}
	// A root is made before its fetch begins, and stays when a fetch is interrupted.
	first := nix.RootedSince(e.StorePath, nix.RootsDir, targetRoot, prefetchRoot)
	for _, at := range []time.Time{began, since(w, m.Now())} {
		if at.Before(first) {
			first = at
		}
	}
	f := m.fetchOf(&w)
	if !nix.Valid(ctx, e.StorePath) {
		if in := room(ctx, f, e.ClosureSize); in != nil {
			return in
		}
		if err = f.Run(ctx); err != nil {
			return fetchFailed(err)
		}
	}
	reason, err := f.CheckFetched(ctx, e, first)
	switch {
	case reason != "":
		return states.Refused{Reason: reason, Message: err.Error()}
	case err != nil:
		return fetchFailed(err)
	}
	if err := m.dir().Fetching().Remove(); err != nil {
		return fetchFailed(err)
	}
	if in := m.inspect(e); in != nil {
		return in
	}
	if len(w.Deviated) > 0 {
		return states.Replaced{Paths: w.Deviated}
	}
	return states.Done{}
}

func fetchFailed(err error) states.Input {
	var fe *nix.FetchError
	if errors.As(err, &fe) {
		return states.Failed{Reason: fe.Reason, Message: fe.Text}
	}
	return states.Failed{Reason: fleet.ReasonFetchFailed, Message: err.Error()}
}

// room checks before the copy that the store has room for it. Most of a closure is
// usually there already, so Nix is asked only if the whole would not fit.
func room(ctx context.Context, f nix.Fetch, size int64) states.Input {
	free, err := host.Free(fleet.StoreDir)
	if err != nil || free >= size+roomMargin {
		return nil
	}
	if need := f.Missing(ctx); need >= 0 && free < need+roomMargin {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: fmt.Sprintf("%d MiB are free in the store, and the system needs %d MiB", free>>20, need>>20)}
	}
	return nil
}

// inspect refuses a system that could not be rolled back by itself.
func (m *Machine) inspect(e fleet.Entry) states.Input {
	if e.Detach {
		return nil
	}
	watchdog := []string{"etc/systemd/system/" + host.WatchdogUnit, "etc/systemd/system/" + host.WatchdogTimer}
	if e.System.Darwin() {
		watchdog = []string{"Library/LaunchDaemons/" + host.WatchdogLabel + ".plist"}
	}
	for _, file := range watchdog {
		if _, err := os.Stat(filepath.Join(string(e.StorePath), file)); err != nil {
			return states.Refused{Reason: fleet.ReasonNoWatchdog, Message: "the system does not declare " + filepath.Base(file) + ", and its entry does not allow that (detach)"}
		}
	}
	c, err := m.ReadConfig(filepath.Join(string(e.StorePath), config.AgentFile))
	if err != nil {
		return states.Refused{Reason: fleet.ReasonMalformed, Message: "the system's own agent could not read its configuration: " + err.Error()}
	}
	if c.MachineID != m.Agent.MachineID {
		return states.Refused{Reason: fleet.ReasonWrongMachine, Message: "the system is that of machine " + string(c.MachineID)}
	}
	return nil
}
