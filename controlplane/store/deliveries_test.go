// SPDX-License-Identifier: AGPL-3.0-only

package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/controlplane/store/deliveries"
	"github.com/arcanesys/nixfleet/fleet"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "a.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStatementsOfWebhooks_FindRowsByAnIndex(t *testing.T) {
	store.CheckPlans(t, openStore(t), "deliveries/*.go", map[string]string{
		"SELECT id, spec, created_at, created_by,": "webhooks are at most 50",
	}, func(tx *store.Tx) {
		ctx, d := context.Background(), fleet.WebhookDelivery{Webhook: "whk1", Seq: 7, Mark: "m"}
		_, listed := deliveries.Webhooks(ctx, tx.Reader)
		_, _, counted := deliveries.Count(ctx, tx.Reader, "whk1", 10)
		_, read := deliveries.Entries(ctx, tx.Reader, 1, 10)
		_, _, next := deliveries.Next(ctx, tx.Reader, "whk1")
		_, page := deliveries.List(ctx, tx.Reader, "whk1", true, fleet.PageRequest{})
		_, given := deliveries.GiveUp(ctx, tx, "whk1", 1, 1, "why")
		_, one := deliveries.Revive(ctx, tx, "whk1", []int64{7}, 1)
		_, all := deliveries.Revive(ctx, tx, "whk1", nil, 1)
		err := errors.Join(listed, counted, read, next, page, given, one, all,
			deliveries.Add(ctx, tx, fleet.Webhook{ID: "whk1"}), deliveries.Queue(ctx, tx, "whk1", 7, []fleet.WebhookDelivery{d}),
			deliveries.Undelivered(ctx, tx, d, 1), deliveries.Delivered(ctx, tx, "whk1", 7, 1), deliveries.Prune(ctx, tx, "whk1", 1, 1), deliveries.Delete(ctx, tx, "whk1"))
		if err != nil {
			t.Error(err)
		}
	})
}

// A webhook's dead letters are forgotten after their time, and the oldest when they
// are too many. Those of another stay.
func TestPrune_KeepsTheNewestDeadLetters(t *testing.T) {
	s, ctx := openStore(t), t.Context()
	letters := func(hook string) (ids []int64) {
		page, err := deliveries.List(ctx, s.Reader, hook, true, fleet.PageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Items {
			ids = append(ids, d.Seq)
		}
		return ids
	}
	err := s.Write(ctx, func(tx *store.Tx) (err error) {
		for _, hook := range []string{"a", "b"} {
			var queued []fleet.WebhookDelivery
			for seq := int64(1); seq <= 9; seq++ {
				queued = append(queued, fleet.WebhookDelivery{Webhook: hook, Seq: seq, Queued: seq, Next: seq})
			}
			err = errors.Join(err, deliveries.Add(ctx, tx, fleet.Webhook{ID: hook}), deliveries.Queue(ctx, tx, hook, 9, queued))
			for _, d := range queued[:8] {
				d.Dead, d.Next = true, 100*d.Seq
				err = errors.Join(err, deliveries.Undelivered(ctx, tx, d, 1))
			}
		}
		return errors.Join(err, deliveries.Prune(ctx, tx, "a", 250, 3), deliveries.Prune(ctx, tx, "b", 250, 10))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := letters("a"); len(got) != 4 || got[0] != 5 {
		t.Errorf("of the letters of a %v are left", got)
	}
	if got := letters("b"); len(got) != 6 || got[0] != 3 {
		t.Errorf("of the letters of b %v are left", got)
	}
	if d, ok, err := deliveries.Next(ctx, s.Reader, "a"); err != nil || !ok || d.Seq != 9 {
		t.Errorf("the next is %+v, %v, %v", d, ok, err)
	}
}
