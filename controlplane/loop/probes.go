// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"sync"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// maxProbes is how many gates are asked at the same time.
const maxProbes = 16

// probes asks gates and brings their answers to the engine. One that gets lost, by
// a stop for example, is asked again: the batch's row says when.
type probes struct {
	loop *Loop
	ask  func(context.Context, rollout.Probe) rollout.GateResult

	mu     sync.Mutex // held where a probe begins or close ends them
	closed bool
	stop   chan struct{} // closed by close
	slots  chan struct{}
	work   sync.WaitGroup
}

func newProbes(l *Loop, ask func(context.Context, rollout.Probe) rollout.GateResult) *probes {
	return &probes{loop: l, ask: ask, stop: make(chan struct{}), slots: make(chan struct{}, maxProbes)}
}

func (p *probes) start(list []rollout.Probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for _, q := range list {
		p.work.Go(func() { p.run(q) })
	}
}

func (p *probes) run(q rollout.Probe) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-p.stop:
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.work.Go(func() {
		select {
		case <-p.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	res := p.ask(ctx, q)
	if ctx.Err() != nil {
		return // that it was cut off is no answer
	}
	err := p.loop.Act(ctx, func(ctx context.Context, pass *Pass) error { return pass.answer(ctx, q.Rollout, res) })
	if err != nil && ctx.Err() == nil {
		p.loop.Log.Warn("the answer of a gate was not taken in; it is asked again", "rollout", q.Rollout, "gate", q.Gate, "error", err)
	}
}

func (p *probes) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	p.mu.Unlock()
	p.work.Wait()
}

// answer brings the answer of a gate to its rollout, if that is still at work.
func (p *Pass) answer(ctx context.Context, id fleet.RolloutID, res rollout.GateResult) error {
	s, ok := p.loop.active[id]
	if !ok {
		return nil
	}
	p.step(s, rollout.Event{Gate: &res})
	p.tickDue()
	return p.write(ctx)
}
