// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// trail is the size of the audit trail, and how many of its entries are there.
func (w *world) trail() (size int64, there int) {
	w.tb.Helper()
	for e, err := range api.All(w.tb.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
		return w.plane().History.Audit(ctx, fleet.AuditFilter{}, p)
	}) {
		if err != nil {
			w.tb.Fatal(err)
		}
		size = e.Seq
		there++
	}
	return size, there
}

// Nothing is removed unless the configuration says so. Then only what is old and not
// needed is, in small parts; the rest of the audit trail still verifies, and an agent
// that was away for longer is not taken for one that has seen more.
func TestRetention_RemovesWhatIsOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01")
		unused := w.register("web-01")
		used := w.register("web-01")
		_, stop := w.agents("web-01")
		id := w.rollOut(used, func(*fleet.RolloutSpec) {})
		w.until(id, fleet.RolloutCompleted)
		stop()
		newest := w.register("web-01")
		const many = 2500
		old := make([]fleet.AuditEvent, many)
		for i := range old {
			old[i] = fleet.AuditEvent{At: w.now().UnixMilli(), Actor: "key:old", Action: "old.action", Subject: fmt.Sprint(i)}
		}
		if err := w.store.Write(t.Context(), func(tx *store.Tx) error { return tx.AddAudit(t.Context(), old...) }); err != nil {
			t.Fatal(err)
		}
		echo := w.plane().Epoch.Token()
		first, last, err := w.store.EventRange(t.Context())
		if err != nil || first == last {
			t.Fatalf("events %d to %d, %v", first, last, err)
		}

		w.advance(400 * 24 * time.Hour)
		rest(61 * time.Minute)
		if size, there := w.trail(); int64(there) != size || there < many {
			t.Fatalf("without retention %d of %d entries are there", there, size)
		}
		if now, _, err := w.store.EventRange(t.Context()); err != nil || now != first {
			t.Fatalf("without retention the events begin at %d, not %d: %v", now, first, err)
		}

		const day = 24 * time.Hour
		w.kept = loop.Retention{Events: 10 * day, Reports: 10 * day, Audit: 10 * day, Releases: 10 * day}
		w.restart()
		rest(59 * time.Minute)
		if _, there := w.trail(); there < many {
			t.Fatal("entries were removed soon after the start, when the clock may be wrong")
		}
		rest(2 * time.Minute)
		size, there := w.trail()
		if there > 50 || size < many {
			t.Errorf("%d of %d entries are left", there, size)
		}
		if head, err := w.store.VerifyAudit(t.Context()); err != nil || head.Size != size {
			t.Errorf("the rest of the trail: %+v, %v", head, err)
		}
		if cut, err := w.store.AuditCut(t.Context()); err != nil || cut.Size != size-int64(there) {
			t.Errorf("it begins after %d, %v, and %d of %d are there", cut.Size, err, there, size)
		}
		if now, end, err := w.store.EventRange(t.Context()); err != nil || now <= first || end < last {
			t.Errorf("events %d to %d, %v: were %d to %d", now, end, err, first, last)
		}
		for digest, kept := range map[fleet.Digest]bool{unused: false, used: true, newest: true} {
			if _, err := w.plane().Release(t.Context(), alice, digest); (err == nil) != kept {
				t.Errorf("release %s: %v, want kept %t", digest.Short(), err, kept)
			}
		}
		if err := w.plane().Epoch.Check(t.Context(), "an agent", echo); err != nil || w.plane().Epoch.Mode() == epoch.Restored {
			t.Errorf("an old echo: %v, mode %s", err, w.plane().Epoch.Mode())
		}
		w.restart()
		if err := errors.Join(w.plane().Health.Ready(t.Context()), w.store.Look(t.Context())); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}
