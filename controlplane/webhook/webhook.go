// SPDX-License-Identifier: AGPL-3.0-only

// Package webhook sends what is audited to receivers that admins name: signed, at
// least once, under an id that stays the same. What a receiver does not take is
// tried again for a day, then kept as a dead letter that can be sent again.
//
// It never follows a redirect, and never tells anyone what a receiver answered beyond
// its status.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/store/deliveries"
	"github.com/arcanesys/nixfleet/fleet"
)

// Retry says how messages are tried again; zero fields have the defaults.
type Retry struct {
	First   time.Duration // before the second attempt: 5 s
	Longest time.Duration // between two: 15 minutes
	GiveUp  time.Duration // after it was queued, a message that fails is dead: 24 h
	Timeout time.Duration // of an attempt: 10 s
}

// keepDead is how long dead letters are kept.
const keepDead = 30 * 24 * time.Hour

// Config is what a Sender works with.
type Config struct {
	Loop    *loop.Loop
	Key     []byte // secret; what webhooks sign with is derived from it
	FleetID func() string
	Retry   Retry
}

// Sender keeps webhooks and sends their messages while Run is at work.
type Sender struct {
	Config
	client *client

	mu      sync.Mutex
	hooks   map[string]hook
	changed chan struct{} // 1 buffered: there is something to look at
}

// hook is a webhook with its template, and how the receiver does.
type hook struct {
	fleet.Webhook
	template  *template.Template
	failures  int   // in a row, of any message
	notBefore int64 // Unix milliseconds: the next attempt of any
	busy      bool  // an attempt is at work
	due       int64 // when the next message is due; 0: to be looked up, -1: none waits
	kept      int64 // cursor that the store has
	changes   int   // by others than Run
}

// Open reads the webhooks.
func Open(ctx context.Context, c Config) (*Sender, error) {
	c.Retry = c.Retry.orDefault()
	s := &Sender{Config: c, client: newClient(c.Retry.Timeout), hooks: map[string]hook{}, changed: make(chan struct{}, 1)}
	all, err := deliveries.Webhooks(ctx, c.Loop.Store.Reader)
	if err != nil {
		return nil, err
	}
	for _, w := range all {
		h, err := newHook(w)
		if err != nil { // of another version; its messages say so
			c.Loop.Log.Error("the template of a webhook cannot be used", "webhook", w.ID, "err", err)
		}
		s.hooks[w.ID] = h
	}
	return s, nil
}

func (r Retry) orDefault() Retry {
	for _, f := range []struct {
		v    *time.Duration
		none time.Duration
	}{{&r.First, 5 * time.Second}, {&r.Longest, 15 * time.Minute}, {&r.GiveUp, 24 * time.Hour}, {&r.Timeout, 10 * time.Second}} {
		if *f.v == 0 {
			*f.v = f.none
		}
	}
	return r
}

func newHook(w fleet.Webhook) (h hook, err error) {
	h = hook{Webhook: w, kept: w.Cursor}
	if w.Format == fleet.WebhookTemplate {
		h.template, err = parseTemplate(w.Template)
	}
	return h, err
}

func randomID() string { return strings.ToLower(rand.Text()[:10]) }

// secret is what a webhook's messages are signed with.
func (s *Sender) secret(id string) []byte {
	m := hmac.New(sha256.New, s.Key)
	m.Write([]byte("nixfleet webhook " + id))
	return m.Sum(nil)
}

// List returns all webhooks, by id, with the counts of their messages up to 10,000.
func (s *Sender) List(ctx context.Context) ([]fleet.Webhook, error) {
	all, err := deliveries.Webhooks(ctx, s.Loop.Store.Reader)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Waiting, all[i].Dead, err = deliveries.Count(ctx, s.Loop.Store.Reader, all[i].ID, maxDead); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Create makes a webhook, to which goes what is audited from now on. The error's
// code is Invalid, or Conflict when there are too many.
func (s *Sender) Create(ctx context.Context, c access.Caller, spec fleet.WebhookSpec) (api.NewWebhook, error) {
	if spec.Format == "" {
		spec.Format = fleet.WebhookJSON
	}
	if err := spec.Validate(); err != nil {
		return api.NewWebhook{}, err
	}
	for _, p := range spec.Events {
		if !slices.ContainsFunc(fleet.Actions[:], fleet.WebhookSpec{Events: []string{p}}.Wants) {
			return api.NewWebhook{}, fleet.Errorf(fleet.Invalid, "nothing that is audited is called %s", p).WithHint("one of %s", strings.Join(fleet.Actions[:], ", "))
		}
	}
	h, err := newHook(fleet.Webhook{ID: "whk" + randomID(), WebhookSpec: spec, CreatedBy: c.Actor()})
	if err != nil {
		return api.NewWebhook{}, err
	}
	var out api.NewWebhook
	err = s.Loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		return once.Do(ctx, p.Tx, &out, func() error {
			all, fault := deliveries.Webhooks(ctx, p.Tx.Reader)
			if fault != nil {
				return fault
			}
			if len(all) >= fleet.MaxWebhooks {
				return fleet.Errorf(fleet.Conflict, "there are %d webhooks, the most that there may be", len(all)).WithHint("nixfleet webhook remove")
			}
			head, fault := p.Tx.AuditHead(ctx)
			if fault != nil {
				return fault
			}
			h.CreatedAt, h.Cursor, h.kept = p.Now, head.Size, head.Size
			out = api.NewWebhook{Webhook: h.Webhook, Secret: api.WebhookSecret(s.secret(h.ID))}
			if fault = deliveries.Add(ctx, p.Tx, h.Webhook); fault != nil {
				return fault
			}
			p.AfterCommit(func() { s.put(h) })
			return p.Audit(ctx, c.Actor(), fleet.ActionWebhookCreate, "webhook:"+h.ID, map[string]string{
				"host": host(spec.URL), "events": strings.Join(spec.Events, ","), "format": string(spec.Format),
			})
		})
	})
	return out, err
}

// host is the part of a URL that is no secret.
func host(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}

// Delete forgets a webhook and its messages. The error's code is NotFound.
func (s *Sender) Delete(ctx context.Context, c access.Caller, id string) (fleet.Webhook, error) {
	h, err := s.named(id)
	if err != nil {
		return fleet.Webhook{}, err
	}
	return h.Webhook, s.Loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		if err := deliveries.Delete(ctx, p.Tx, id); err != nil {
			return err
		}
		p.AfterCommit(func() { s.remove(id) })
		return p.Audit(ctx, c.Actor(), fleet.ActionWebhookDelete, "webhook:"+id, map[string]string{"host": host(h.URL)})
	})
}

// Messages returns a page of a webhook's messages that are dead, or that wait. The
// error's code is NotFound if there is no such webhook.
func (s *Sender) Messages(ctx context.Context, id string, dead bool, page fleet.PageRequest) (api.Page[fleet.WebhookDelivery], error) {
	if _, err := s.named(id); err != nil {
		return api.Page[fleet.WebhookDelivery]{}, err
	}
	return deliveries.List(ctx, s.Loop.Store.Reader, id, dead, page)
}

// Resend has dead letters tried again. The error's code is NotFound for a webhook,
// Invalid for a message id that is none of its own.
func (s *Sender) Resend(ctx context.Context, c access.Caller, id string, in api.ResendRequest) (api.Resent, error) {
	if _, err := s.named(id); err != nil {
		return api.Resent{}, err
	}
	seqs := make([]int64, len(in.Messages))
	for i, m := range in.Messages {
		seq, err := seqOf(id, m)
		if err != nil {
			return api.Resent{}, err
		}
		seqs[i] = seq
	}
	var out api.Resent
	err := s.Loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		return once.Do(ctx, p.Tx, &out, func() (err error) {
			if out.Count, err = deliveries.Revive(ctx, p.Tx, id, seqs, p.Now); err != nil || out.Count == 0 {
				return err
			}
			p.AfterCommit(func() { s.change(id, func(h *hook) { h.failures, h.notBefore, h.due = 0, 0, 0 }) })
			return p.Audit(ctx, c.Actor(), fleet.ActionWebhookResend, "webhook:"+id, nil)
		})
	})
	return out, err
}

// Counts counts the messages of all webhooks.
func (s *Sender) Counts(ctx context.Context) (waiting, dead int, err error) {
	for _, h := range s.all() {
		w, d, err := deliveries.Count(ctx, s.Loop.Store.Reader, h.ID, maxDead)
		if err != nil {
			return 0, 0, err
		}
		waiting, dead = waiting+w, dead+d
	}
	return waiting, dead, nil
}

func (s *Sender) named(id string) (hook, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.hooks[id]
	if !ok {
		return h, fleet.Errorf(fleet.NotFound, "there is no webhook %.80q", id).WithHint("nixfleet webhook list shows them")
	}
	return h, nil
}

// all are the webhooks by id.
func (s *Sender) all() []hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]hook, 0, len(s.hooks))
	for _, id := range slices.Sorted(maps.Keys(s.hooks)) {
		out = append(out, s.hooks[id])
	}
	return out
}

func (s *Sender) put(h hook) {
	s.mu.Lock()
	s.hooks[h.ID] = h
	s.mu.Unlock()
	s.wake()
}

func (s *Sender) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hooks, id)
}

// change changes a webhook that is still there.
func (s *Sender) change(id string, f func(*hook)) {
	s.mu.Lock()
	if h, ok := s.hooks[id]; ok {
		f(&h)
		h.changes++
		s.hooks[id] = h
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Sender) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
