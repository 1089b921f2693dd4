// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"errors"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/wire"
	"github.com/arcanesys/nixfleet/fleet"
)

func TestBudgets_BoundWhatAMachineAsksFor(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ask   func(b *budgets, now time.Time) error
		burst int
		after time.Duration // until one more
	}{
		{"requests", func(b *budgets, now time.Time) error { return b.call("web-01", "checkIn", 100, now) }, callBurst, 200 * time.Millisecond},
		{"large bodies", func(b *budgets, now time.Time) error { return b.call("web-01", "reports", wire.MaxReportsSize, now) }, 2, 1024 * time.Second},
		{"bodies of unknown size", func(b *budgets, now time.Time) error { return b.call("web-01", "reports", -1, now) }, 2, 1024 * time.Second},
		{"renewals", func(b *budgets, now time.Time) error { return b.call("web-01", "renew", 100, now) }, renewalBurst, time.Minute},
		{"reports", func(b *budgets, now time.Time) error { return b.reports("web-01", 100, now) }, reportBurst / 100, 500 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := newBudgets()
			if err != nil {
				t.Fatal(err)
			}
			now := time.Unix(1_800_000_000, 0)
			for n := range tt.burst {
				if err := tt.ask(b, now); err != nil {
					t.Fatalf("number %d: %v", n, err)
				}
			}
			var over *overBudget
			for range 3 { // a refusal costs nothing
				if err := tt.ask(b, now); !errors.As(err, &over) || fleet.ErrorCode(err) != fleet.RateLimited {
					t.Fatalf("beyond the burst: %v", err)
				}
			}
			if d := over.after - tt.after; d < -time.Millisecond || d > time.Millisecond {
				t.Errorf("told to wait %s, want %s", over.after, tt.after)
			}
			p := problemOf(tt.ask(b, now))
			if got := p.headers().Get("Retry-After"); p.Status != 429 || got == "" || got == "0" {
				t.Errorf("status %d, Retry-After %q", p.Status, got)
			}
			if err := b.call("web-02", "renew", 100, now); err != nil {
				t.Errorf("another machine: %v", err)
			}
			if err := tt.ask(b, now.Add(tt.after+time.Millisecond)); err != nil {
				t.Errorf("after the wait: %v", err)
			}
		})
	}
}
