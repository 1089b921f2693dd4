// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/check"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// glance is how often an idle agent looks at its machine by itself.
const glance = 2 * time.Second

// Idle keeps the checks of the running system going and waits for something to
// act on.
func (w *world) Idle(ctx context.Context, j states.Journal) states.Input {
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := check.Runner{Checks: healthChecks(w.cfg), Begin: time.Now().Add(-time.Duration(w.Now().Boot * float64(time.Second)))}
		r.OnChange = w.checked
		r.Run(watching)
	}()
	defer func() { stop(); <-ended }()

	tick := time.NewTicker(glance)
	defer tick.Stop()
	for ctx.Err() == nil {
		if in := w.wanted(ctx, j); in != nil && !reflect.DeepEqual(states.Next(j, in, w.Now()), j) {
			return in
		}
		select {
		case <-ctx.Done():
		case <-w.orders.wake:
		case <-tick.C:
		}
	}
	return nil
}

// wanted is what an idle agent has to act on, or nil.
func (w *world) wanted(ctx context.Context, j states.Journal) states.Input {
	if !host.LockHeld() { // in the middle of another hand's switch nothing is to be seen
		seen := states.Observed{Generations: w.Generations()}
		if !reflect.DeepEqual(states.Next(j, seen, w.Now()), j) {
			return seen
		}
		// After a switch by hand the agent of that system takes over.
		if w.lastRunning != "" && w.lastRunning != seen.Running {
			w.replace(ctx, 30*time.Second)
		}
		w.lastRunning = seen.Running
	}
	if in := w.adopted(j); in != nil {
		return in
	}
	w.warnOfAge(j)
	v, any := w.orders.get()
	if !any {
		return nil
	}
	if in := w.learn(ctx, j, v.Documents); in != nil {
		return in
	}
	if in := w.start(j, v); in != nil {
		return in
	}
	return w.prefetch(ctx, j, v.Prefetch)
}

// warnOfAge warns when half and three quarters of the timestamp's life are
// over: once it is, no release is accepted.
func (w *world) warnOfAge(j states.Journal) {
	used := timestampLife(j, w.Now().WallMs)
	step := 0
	for _, s := range []int{50, 75, 100} {
		if used >= s {
			step = s
		}
	}
	if step > w.warnedLife {
		w.log.Warn("the fleet's timestamp is getting old", "percent", used, "expires", time.UnixMilli(j.Trust.Timestamp.Expires).UTC())
	}
	w.warnedLife = step
}

// timestampLife is how much of the timestamp's life is over, in percent; 0
// without one.
func timestampLife(j states.Journal, now int64) int {
	if j.Trust.Timestamp == nil {
		return 0
	}
	return trust.LifeUsed(*j.Trust.Timestamp, max(now, j.Trust.HighestSignedTime))
}

// start returns the order to begin with, unless something holds it.
func (w *world) start(j states.Journal, v api.Orders) states.Input {
	o, ok := pick(v, j)
	if !ok {
		w.repeat(j, v)
		if v.Apply == nil && v.Revert == nil && j.Waiting != "" {
			return states.Withdrawn{} // nothing to wait for
		}
		return nil
	}
	if why := held(filepath.Join(w.cfg.RunDir, "inhibit.d"), time.Now()); why != "" && o.Kind == states.Apply {
		return states.Busy{Why: why}
	}
	key, now := o.Key(), time.Now()
	if now.Before(w.notBefore[key]) {
		return nil
	}
	// Should the attempt be dropped before it has begun, it is tried again,
	// less and less often.
	d := min(max(2*w.delay[key], glance), time.Minute)
	w.notBefore, w.delay = map[string]time.Time{key: now.Add(jitter(d))}, map[string]time.Duration{key: d}
	return states.Ordered{Order: o}
}

// repeat queues the outcome of an order that is given again although it was
// carried out: the control plane may have lost the report.
func (w *world) repeat(j states.Journal, v api.Orders) {
	o, ok := revertOrder(v)
	if !ok {
		o, ok = applyOrder(v)
	}
	if !ok || !j.Did(o) || w.outbox.Len() > 0 || time.Now().Before(w.notBefore[o.Key()]) {
		return
	}
	all, err := w.history.List()
	if err != nil {
		w.log.Warn("the history cannot be read", "error", err)
		return
	}
	for i := len(all) - 1; i >= 0; i-- {
		if r := all[i]; r.Rollout == o.Rollout && r.Attempt == o.Attempt && r.Digest == o.Digest {
			w.notBefore = map[string]time.Time{o.Key(): time.Now().Add(time.Minute)}
			if err := w.outbox.Put(r); err != nil {
				w.log.Warn("a report cannot be queued", "error", err)
			}
			return
		}
	}
}

// adoptFile is how `nixfleet-agent adopt-floor` tells the agent that runs.
func (w *world) adoptFile() string { return filepath.Join(w.cfg.StateDir, "adopt-floor.json") }

func (w *world) adopted(j states.Journal) states.Input {
	b, err := os.ReadFile(w.adoptFile())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn("the floor to adopt cannot be read", "error", err)
		}
		return nil
	}
	var f trust.Floor
	if err := json.Unmarshal(b, &f); err != nil {
		w.log.Warn("the floor to adopt cannot be read", "error", err)
	}
	if err := os.Remove(w.adoptFile()); err != nil {
		w.log.Warn("the floor to adopt cannot be removed", "error", err)
		return nil
	}
	if err != nil || j.Trust.Floor != nil {
		return nil
	}
	return states.Adopted{Floor: f}
}

// learn gets the trust documents that the agent does not have. One that is
// refused changes nothing, is told, and is looked at again after a while: a
// clock may have been behind.
func (w *world) learn(ctx context.Context, j states.Journal, have fleet.DocumentDigests) states.Input {
	s, known := w.trustState(j), j.Learned
	for _, d := range []struct {
		have  fleet.Digest
		known *fleet.Digest
		get   func(fleet.Digest) (trust.Documents, error)
	}{
		{have.Root, &known.Root, func(fleet.Digest) (d trust.Documents, err error) {
			if s.Root != nil {
				d.Roots, err = w.rootsAfter(ctx, s.Root.Version)
			}
			return d, err
		}},
		{have.Revocations, &known.Revocations, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Revocations, err = w.cp.Document(ctx, h)
			return d, err
		}},
		{have.Timestamp, &known.Timestamp, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Timestamp, err = w.cp.Document(ctx, h)
			return d, err
		}},
	} {
		if d.have == "" || d.have == *d.known || time.Now().Before(w.notBeforeDoc[d.have]) {
			continue
		}
		w.notBeforeDoc[d.have] = time.Now().Add(10 * time.Minute)
		docs, err := d.get(d.have)
		if err != nil {
			w.notBeforeDoc[d.have] = time.Now().Add(10 * time.Second)
			w.log.Warn("a trust document cannot be had", "digest", d.have, "error", err)
			continue
		}
		next, errs := s.Learn(w.Now().WallMs, docs)
		if len(errs) > 0 {
			w.refusal(j, d.have, errs[0])
			continue
		}
		s, *d.known = next, d.have
	}
	if known == j.Learned {
		return nil
	}
	return states.Learned{Trust: s, Documents: known}
}

// refusal tells of a document that was refused outside an attempt.
func (w *world) refusal(j states.Journal, d fleet.Digest, err error) {
	w.log.Warn("a trust document is refused", "digest", d, "error", err)
	r := w.engine.fill(fleet.Report{Kind: fleet.ReportRefusal, Reason: trust.ReasonOf(err), Message: err.Error()})
	r.ID = reportID(w.cfg.MachineID, j, "refusal "+string(d)+err.Error())
	if err := w.outbox.Put(r); err != nil {
		w.log.Warn("a report cannot be queued", "error", err)
	}
}

// rootsAfter gets the versions of the root document after the one that is
// trusted, in order.
func (w *world) rootsAfter(ctx context.Context, version uint64) ([][]byte, error) {
	const most = 100 // at a time
	var out [][]byte
	for range most {
		version++
		b, err := w.cp.Root(ctx, version)
		if fleet.ErrorCode(err) == fleet.NotFound {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// prefetch brings what may be wanted soon. It changes nothing but the store.
func (w *world) prefetch(ctx context.Context, j states.Journal, d fleet.Digest) states.Input {
	if d == "" || d == w.prefetched || j.Current != nil && j.Current.Digest == d {
		return nil
	}
	w.prefetched = d
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan states.Input, 1)
	go func() {
		a, in := w.accept(ctx, j, d)
		if in == nil {
			in = w.bring(ctx, a, "prefetch", time.Now())
		}
		ended <- in
	}()
	for {
		select {
		case in := <-ended:
			if _, ok := in.(states.Done); !ok && ctx.Err() == nil {
				w.log.Warn("the release cannot be fetched ahead", "release", d.Short(), "result", in)
			}
			return nil
		case <-w.orders.wake:
			// Another order must not wait for what is not wanted yet.
			if v, _ := w.orders.get(); v.Revert != nil || v.Apply != nil && v.Apply.Digest != d {
				cancel()
			}
		}
	}
}
