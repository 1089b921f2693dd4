// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// metaFreeze is the name under which the store keeps the freeze, as JSON; "null"
// or nothing for none.
const metaFreeze = "freeze"

// Freeze returns what keeps the fleet from being ordered anything new; nil for
// nothing.
func (l *Loop) Freeze() *fleet.Freeze {
	if f := l.freeze.Load(); f.Holds(l.Clock.UnixMilli()) {
		return f
	}
	return nil
}

func (l *Loop) loadFreeze(ctx context.Context, r store.Reader) error {
	text, err := r.Meta(ctx, metaFreeze)
	if err != nil || text == "" {
		return err
	}
	var f *fleet.Freeze
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return fmt.Errorf("read freeze: %w", err)
	}
	l.freeze.Store(f)
	return nil
}

// SetFreeze freezes the fleet, or ends that with nil. Offers that no machine has
// begun to carry out are withdrawn in the same pass.
func (p *Pass) SetFreeze(ctx context.Context, f *fleet.Freeze, actor string) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write freeze: %w", err)
	}
	if err := p.Tx.SetMeta(ctx, metaFreeze, string(b)); err != nil {
		return err
	}
	action, detail := fleet.ActionFleetUnfreeze, map[string]string(nil)
	if f != nil {
		action, detail = fleet.ActionFleetFreeze, map[string]string{"reason": f.Reason}
		if f.Until != 0 {
			detail["until"] = time.UnixMilli(f.Until).UTC().Format(time.RFC3339)
		}
	}
	p.note(actor, action, "fleet", detail)
	p.freeze = f
	p.AfterCommit(func() {
		p.loop.freeze.Store(f)
		p.loop.Presence.WakeAll()
	})
	for _, s := range p.Active() {
		p.step(s, rollout.Event{})
	}
	return p.write(ctx)
}

// endFreeze ends a freeze whose time is over.
func (p *Pass) endFreeze(ctx context.Context) error {
	if p.freeze == nil || p.freeze.Holds(p.Now) {
		return nil
	}
	return p.SetFreeze(ctx, nil, rollout.EngineActor)
}

// untilFreezeEnds is when a freeze ends by itself, in Unix milliseconds; 0 for
// never.
func (l *Loop) untilFreezeEnds() int64 {
	if f := l.freeze.Load(); f != nil {
		return f.Until
	}
	return 0
}
