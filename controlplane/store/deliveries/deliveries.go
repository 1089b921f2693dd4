// SPDX-License-Identifier: AGPL-3.0-only

// Package deliveries has the rows of webhooks, and of the messages that their
// receivers have not taken yet.
//
// It never decides what is sent, nor when.
package deliveries

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

func scanWebhook(r store.Row) (h fleet.Webhook, err error) {
	var spec string
	if err = r.Scan(&h.ID, &spec, &h.CreatedAt, &h.CreatedBy, &h.Cursor, &h.Delivered, &h.Failed, &h.LastError); err != nil {
		return h, err
	}
	return h, store.Fill(spec, &h.WebhookSpec)
}

// Webhooks returns all webhooks, by id, without the counts of their messages.
func Webhooks(ctx context.Context, r store.Reader) ([]fleet.Webhook, error) {
	hooks, err := store.List(ctx, r, scanWebhook, `SELECT id, spec, created_at, created_by, seen, delivered, failed, last_error FROM webhook ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return hooks, nil
}

// Count counts a webhook's messages, at most limit of each kind.
func Count(ctx context.Context, r store.Reader, webhook string, limit int) (waiting, dead int, err error) {
	n, _, err := store.First(ctx, r, func(r store.Row) (n [2]int, err error) { return n, r.Scan(&n[0], &n[1]) },
		`SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM webhook_delivery WHERE webhook_id = $1 AND dead = 0 LIMIT $2) AS a),
			(SELECT COUNT(*) FROM (SELECT 1 FROM webhook_delivery WHERE webhook_id = $1 AND dead = 1 LIMIT $2) AS b)`, webhook, limit)
	if err != nil {
		return 0, 0, fmt.Errorf("count messages of %s: %w", webhook, err)
	}
	return n[0], n[1], nil
}

// Add keeps a new webhook.
func Add(ctx context.Context, t *store.Tx, h fleet.Webhook) error {
	spec, err := json.Marshal(h.WebhookSpec)
	if err != nil {
		return fmt.Errorf("encode column: %w", err)
	}
	if _, err = store.Exec(ctx, t, `INSERT INTO webhook (id, spec, created_at, created_by, seen) VALUES ($1, $2, $3, $4, $5)`,
		h.ID, string(spec), h.CreatedAt, h.CreatedBy, h.Cursor); err != nil {
		return fmt.Errorf("write webhook: %w", err)
	}
	return nil
}

// Delete forgets a webhook and its messages. The error's code is NotFound if there is
// none.
func Delete(ctx context.Context, t *store.Tx, id string) error {
	n, err := store.Exec(ctx, t, `DELETE FROM webhook WHERE id = $1`, id)
	if err != nil {
		return fmt.Errorf("delete webhook: %w", err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.NotFound, "there is no webhook %.80q", id).WithHint("nixfleet webhook list shows them")
	}
	return nil
}

// Entries returns entries of the audit trail after one of a number, in order.
func Entries(ctx context.Context, r store.Reader, seq int64, limit int) ([]fleet.AuditEntry, error) {
	entries, err := store.List(ctx, r, func(r store.Row) (e fleet.AuditEntry, err error) {
		return e, r.Scan(&e.Seq, &e.Body, &e.Hash)
	}, `SELECT seq, body, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2`, seq, limit)
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	return entries, nil
}

// Queue keeps messages of a webhook that are to be sent, and up to which audit entry
// that was decided.
func Queue(ctx context.Context, t *store.Tx, webhook string, cursor int64, messages []fleet.WebhookDelivery) error {
	if _, err := store.Exec(ctx, t, `UPDATE webhook SET seen = $1 WHERE id = $2 AND seen < $1`, cursor, webhook); err != nil {
		return fmt.Errorf("queue messages of %s: %w", webhook, err)
	}
	rows := make([][]any, len(messages))
	for i, d := range messages {
		rows[i] = []any{webhook, d.Seq, d.Mark, d.Action, d.At, d.Queued, d.Next}
	}
	if _, err := store.PutRows(ctx, t, `INSERT INTO webhook_delivery (webhook_id, seq, mark, action, at, queued_at, next_at)`, rows, ` ON CONFLICT (webhook_id, seq) DO NOTHING`); err != nil {
		return fmt.Errorf("queue messages of %s: %w", webhook, err)
	}
	return nil
}

const columns = `webhook_id, seq, mark, action, at, attempts, queued_at, next_at, dead, error`

func scan(r store.Row) (d fleet.WebhookDelivery, err error) {
	err = r.Scan(&d.Webhook, &d.Seq, &d.Mark, &d.Action, &d.At, &d.Attempts, &d.Queued, &d.Next, &d.Dead, &d.Error)
	d.ID = d.Webhook + "-" + strconv.FormatInt(d.Seq, 10) + "-" + d.Mark
	return d, err
}

// Next returns the message of a webhook whose turn is first; false if none waits.
func Next(ctx context.Context, r store.Reader, webhook string) (fleet.WebhookDelivery, bool, error) {
	d, ok, err := store.First(ctx, r, scan, `SELECT `+columns+` FROM webhook_delivery WHERE webhook_id = $1 AND dead = 0 ORDER BY next_at, seq LIMIT 1`, webhook)
	if err != nil {
		return d, false, fmt.Errorf("read messages of %s: %w", webhook, err)
	}
	return d, ok, nil
}

// List returns a page of a webhook's messages that are dead, or that wait, by number.
func List(ctx context.Context, r store.Reader, webhook string, dead bool, p fleet.PageRequest) (api.Page[fleet.WebhookDelivery], error) {
	after, err := paging.After[int64](p)
	if err != nil {
		return api.Page[fleet.WebhookDelivery]{}, err
	}
	all, err := store.List(ctx, r, scan, `SELECT `+columns+` FROM webhook_delivery WHERE webhook_id = $1 AND seq > $2 AND dead + 0 = $3 ORDER BY seq LIMIT $4`,
		webhook, after, bit(dead), p.Size()+1)
	if err != nil {
		return api.Page[fleet.WebhookDelivery]{}, fmt.Errorf("list messages of %s: %w", webhook, err)
	}
	return paging.Cut(all, p, func(d fleet.WebhookDelivery) int64 { return d.Seq }), nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Delivered forgets a message that was taken.
func Delivered(ctx context.Context, t *store.Tx, webhook string, seq, at int64) error {
	if _, err := store.Exec(ctx, t, `DELETE FROM webhook_delivery WHERE webhook_id = $1 AND seq = $2`, webhook, seq); err != nil {
		return fmt.Errorf("delete message of %s: %w", webhook, err)
	}
	if _, err := store.Exec(ctx, t, `UPDATE webhook SET delivered = $1, last_error = '' WHERE id = $2`, at, webhook); err != nil {
		return fmt.Errorf("write webhook: %w", err)
	}
	return nil
}

// Undelivered writes how an attempt failed, and when the next is.
func Undelivered(ctx context.Context, t *store.Tx, d fleet.WebhookDelivery, at int64) error {
	if _, err := store.Exec(ctx, t, `UPDATE webhook_delivery SET attempts = $1, next_at = $2, dead = $3, error = $4 WHERE webhook_id = $5 AND seq = $6`,
		d.Attempts, d.Next, bit(d.Dead), d.Error, d.Webhook, d.Seq); err != nil {
		return fmt.Errorf("write message of %s: %w", d.Webhook, err)
	}
	if _, err := store.Exec(ctx, t, `UPDATE webhook SET failed = $1, last_error = $2 WHERE id = $3`, at, d.Error, d.Webhook); err != nil {
		return fmt.Errorf("write webhook: %w", err)
	}
	return nil
}

// GiveUp makes dead letters, at a time, of a webhook's messages that were queued up to
// another, because of an error. It returns how many.
func GiveUp(ctx context.Context, t *store.Tx, webhook string, queued, at int64, why string) (int64, error) {
	n, err := store.Exec(ctx, t, `UPDATE webhook_delivery SET dead = 1, next_at = $1, error = $2 WHERE webhook_id = $3 AND dead = 0 AND queued_at <= $4`, at, why, webhook, queued)
	if err != nil {
		return 0, fmt.Errorf("give up messages of %s: %w", webhook, err)
	}
	return n, nil
}

// Revive has dead letters of a webhook tried again from a time on: those of the
// numbers, or all if there are none. It returns how many.
func Revive(ctx context.Context, t *store.Tx, webhook string, seqs []int64, at int64) (n int64, err error) {
	if len(seqs) == 0 {
		n, err = store.Exec(ctx, t, `UPDATE webhook_delivery SET attempts = 0, queued_at = $1, next_at = $1, dead = 0 WHERE webhook_id = $2 AND dead = 1`, at, webhook)
	}
	for _, seq := range seqs {
		var one int64
		if one, err = store.Exec(ctx, t, `UPDATE webhook_delivery SET attempts = 0, queued_at = $1, next_at = $1, dead = 0 WHERE webhook_id = $2 AND seq = $3 AND dead + 0 = 1`, at, webhook, seq); err != nil {
			break
		}
		n += one
	}
	if err != nil {
		return n, fmt.Errorf("revive messages of %s: %w", webhook, err)
	}
	return n, nil
}

// Prune forgets a webhook's dead letters that died before a time, and of the rest the
// oldest, if there are many more than keep.
func Prune(ctx context.Context, t *store.Tx, webhook string, before int64, keep int) error {
	if _, err := store.Exec(ctx, t, `DELETE FROM webhook_delivery WHERE webhook_id = $1 AND dead = 1 AND next_at < $2`, webhook, before); err != nil {
		return fmt.Errorf("delete dead letters of %s: %w", webhook, err)
	}
	if _, err := store.Exec(ctx, t, `DELETE FROM webhook_delivery WHERE webhook_id = $1 AND dead = 1 AND next_at <
		(SELECT next_at FROM webhook_delivery WHERE webhook_id = $1 AND dead = 1 ORDER BY next_at DESC LIMIT 1 OFFSET $2)`, webhook, keep); err != nil {
		return fmt.Errorf("delete dead letters of %s: %w", webhook, err)
	}
	return nil
}
