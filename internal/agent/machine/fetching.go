// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Limits of what is recorded of a fetch, and of how often an idle agent tries to
// settle one.
const (
	maxDeviated = 32
	settleAgain = time.Minute
)

// beginFetch records a fetch before it can make anything valid. What a fetch of
// another release has left is settled first.
func (m *Machine) beginFetch(ctx context.Context, a trust.Accepted) (disk.Fetching, error) {
	w := disk.Fetching{Release: a.Digest, Entry: a.Entry, Caches: a.Header.Caches, Began: m.Now()}
	file := m.dir().Fetching()
	old, ok, err := file.Read()
	switch {
	case err != nil:
		// Its paths are told by their age, and by this release's caches.
		m.log.Warn("what is known of an earlier fetch is lost", "error", err)
		info, statErr := os.Stat(file.File)
		if statErr != nil {
			return w, err
		}
		old, ok = w, true
		old.Release, old.Began = "", states.Moment{WallMs: info.ModTime().UnixMilli()}
	case ok && old.Release == w.Release:
		return old, nil
	}
	if ok {
		if err := m.settle(ctx, &old, true); err != nil {
			return w, err
		}
	}
	return w, file.Write(w)
}

// fetchOf is the fetch for Nix.
func (m *Machine) fetchOf(w *disk.Fetching) nix.Fetch {
	now := m.Now()
	return nix.Fetch{
		Path: w.Entry.StorePath, Caches: w.Caches, Stall: stallLimit, Roots: []string{targetRoot, prefetchRoot},
		Signed: &m.signed, Scratch: m.dir().Scratch(), Repairs: m.dir().Repairs(),
		Booted:   time.UnixMilli(now.WallMs).Add(-time.Duration(now.Boot * float64(time.Second))),
		Deviates: func(d []nix.Deviation) { m.deviates(w, d) },
	}
}

// deviates reports paths that are not as signed, each once in a fetch, before
// anything is done about them.
func (m *Machine) deviates(w *disk.Fetching, found []nix.Deviation) {
	var paths []string
	for _, d := range found {
		if s := d.String(); !slices.Contains(w.Deviated, s) {
			paths = append(paths, s)
		}
	}
	if len(paths) == 0 {
		return
	}
	m.log.Warn("paths are not as signed", "release", w.Release.Short(), "paths", paths)
	if err := m.Outbox.Put(m.Seen().Deviation(w.Release, w.Began, paths)); err != nil {
		m.log.Warn("a report cannot be queued", "error", err)
	}
	w.Deviated = slices.Concat(w.Deviated, paths)
	w.Deviated = w.Deviated[:min(len(w.Deviated), maxDeviated)]
	if err := m.dir().Fetching().Write(*w); err != nil {
		m.log.Warn("the fetch under way cannot be recorded", "error", err)
	}
}

// since is when the fetch began, by the clock of today: it may have been set back
// meanwhile.
func since(w disk.Fetching, now states.Moment) time.Time {
	at := w.Began.WallMs
	if w.Began.BootID == now.BootID {
		at = min(at, now.WallMs-int64((now.Boot-w.Began.Boot)*1000))
	}
	return time.UnixMilli(at)
}

// settle judges what a fetch has made valid whose system was not accepted. final
// says that the fetch is not tried again.
func (m *Machine) settle(ctx context.Context, w *disk.Fetching, final bool) error {
	unknown, err := m.fetchOf(w).Settle(ctx, w.Entry, since(*w, m.Now()), final)
	if err != nil {
		return err
	}
	if unknown > 0 {
		m.log.Warn("no cache gives the signed list of a release whose fetch failed", "release", w.Release.Short(), "paths", unknown, "deleted", final)
	}
	if final {
		return m.dir().Fetching().Remove()
	}
	return nil
}

// failedFetch settles a fetch that has ended without a system that is accepted.
// What cannot be settled now is tried when the agent is idle.
func (m *Machine) failedFetch(ctx context.Context, final bool) {
	w, ok, err := m.dir().Fetching().Read()
	if ok && err == nil {
		err = m.settle(ctx, &w, final)
	}
	if err != nil && ctx.Err() == nil {
		m.log.Warn("what a failed fetch has left cannot be judged yet", "error", err)
	}
}

// settleIdle settles a fetch that was interrupted: by an order that was withdrawn,
// or by the end of the agent. Only a revert order comes first.
func (m *Machine) settleIdle(ctx context.Context, j states.Journal) {
	w, ok, err := m.dir().Fetching().Read()
	if !ok && err == nil || time.Now().Before(m.idle.settle) {
		return
	}
	m.idle.settle = time.Now().Add(settleAgain)
	if err == nil {
		m.unlessOrdered(ctx, func(v states.Orders) bool {
			o, ok := v.Pick(j)
			return ok && o.Kind == states.Revert
		}, func(ctx context.Context) { err = m.settle(ctx, &w, true) })
	}
	if err != nil {
		m.log.Warn("what an interrupted fetch has left cannot be judged yet", "error", err)
	}
}

// unlessOrdered calls f, and ends its context when there are orders that must not
// wait for it.
func (m *Machine) unlessOrdered(ctx context.Context, urgent func(states.Orders) bool, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	for {
		if v, given := m.Plane.Orders(); given && urgent(v) {
			cancel()
		}
		select {
		case <-done:
			return
		case <-m.Plane.Wake():
		}
	}
}
