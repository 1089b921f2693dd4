// SPDX-License-Identifier: AGPL-3.0-only

// Package enrolment gives machines their identity: one-time tokens, the key that
// a machine enrols with, and which certificates count. A certificate of the
// control plane's own CA counts while its key is that of the machine's row; of
// another CA, while its serial number has not ended. No clock revives either.
//
// It never signs: the caller hands in how a certificate is issued. It never
// sees a machine's private key.
package enrolment

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// tokenLife is how long an enrolment token is good for at most.
const tokenLife = 24 * time.Hour

// Registrar enrols machines and knows which certificates count.
type Registrar struct {
	loop      *loop.Loop
	documents *documents.Keeper
	shown     *shown
}

// Open reads the certificates of another CA that have ended.
func Open(ctx context.Context, l *loop.Loop, d *documents.Keeper) (*Registrar, error) {
	r := &Registrar{loop: l, documents: d, shown: newShown()}
	ended, err := l.Store.EndedCertificates(ctx)
	r.shown.end(ended...)
	return r, err
}

// CreateToken makes a one-time enrolment token for a machine; it is shown this
// once, and ends the machine's earlier ones. caHash is that of the server's CA
// (api.CAHash): the machine checks it before it sends anything. An enrolled
// machine needs Replace.
func (r *Registrar) CreateToken(ctx context.Context, c access.Caller, id fleet.MachineID, in api.TokenRequest, caHash string) (api.Token, error) {
	life := time.Duration(in.TTLSeconds) * time.Second
	if in.TTLSeconds == 0 {
		life = tokenLife
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(tokenLife/time.Second) {
		return api.Token{}, fleet.Errorf(fleet.Invalid, "token: ttlSeconds must be between 1 and %d", int64(tokenLife/time.Second))
	}
	if _, err := fleet.ParseMachineID(string(id)); err != nil {
		return api.Token{}, err
	}
	parts := api.TokenParts{Machine: id, Secret: strings.ToLower(rand.Text()), CAHash: caHash}
	token := api.Token{Token: parts.String(), Machine: id, ExpiresAt: r.loop.Clock.UnixMilli() + life.Milliseconds()}
	err := r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		return once.Do(ctx, p.Tx, &token, func() error { return addToken(ctx, p, c, token, in.Replace) })
	})
	if err != nil {
		return api.Token{}, err
	}
	return token, nil
}

func addToken(ctx context.Context, p *loop.Pass, c access.Caller, token api.Token, replace bool) error {
	if err := provision(ctx, p, c, token.Machine, replace); err != nil {
		return err
	}
	row := store.Token{Hash: fleet.SHA256([]byte(token.Token)), Machine: token.Machine, CreatedAt: p.Now, ExpiresAt: token.ExpiresAt, Replaces: replace}
	if err := p.Tx.AddToken(ctx, row); err != nil {
		return err
	}
	detail := map[string]string{"expires": time.UnixMilli(token.ExpiresAt).UTC().Format(time.RFC3339)}
	if replace {
		detail["replace"] = "true"
	}
	return p.Audit(ctx, c.Actor(), fleet.ActionTokenCreate, "machine:"+string(token.Machine), detail)
}

// provision makes a machine ready for a token: one that is not known becomes
// so.
func provision(ctx context.Context, p *loop.Pass, c access.Caller, id fleet.MachineID, replace bool) error {
	m, known := p.Machine(id)
	if !known {
		m = newMachine(id, fleet.Provisioning, p.Now)
	}
	if err := mayHaveToken(c, m, replace); err != nil {
		return err
	}
	switch {
	case !known:
		return p.Register(ctx, m, c.Actor(), nil)
	case m.Lifecycle == fleet.Pending:
		m.Lifecycle = fleet.Provisioning
		if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
			return err
		}
		p.Changed(m)
	}
	return nil
}

func newMachine(id fleet.MachineID, l fleet.Lifecycle, now int64) fleet.Machine {
	return fleet.Machine{ID: id, Lifecycle: l, Tags: fleet.NewTags(nil, nil), Checks: []fleet.HealthCheckResult{}, CreatedAt: now, Version: 1}
}

// mayHaveToken looks at the caller first: what follows tells of the machine.
func mayHaveToken(c access.Caller, m fleet.Machine, replace bool) error {
	if err := c.MayTouch(m); err != nil {
		return err
	}
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return fleet.Errorf(fleet.Conflict, "machine %s is decommissioned", m.ID).WithHint("make it pending first: nixfleet machine set-lifecycle %s pending", m.ID)
	case m.EnrolledAt > 0 && !replace:
		return fleet.Errorf(fleet.Conflict, "machine %s is enrolled already", m.ID).
			WithHint("--replace makes a token that ends its present certificate when it is used")
	}
	return nil
}

// RedeemToken exchanges a token for a certificate; the request's key
// becomes the machine's. The token is bound to it; the same key gets the same
// answer again, in case the first got lost. The error's code is Unauthenticated
// for a token that is unknown or expired, Conflict for one that another key used
// (E08), and for a key that was a machine's before.
func (r *Registrar) RedeemToken(ctx context.Context, token string, keys Keys, issue Issue) (der []byte, machine fleet.MachineID, err error) {
	err = r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) (err error) {
		row, ok, err := p.Tx.Token(ctx, fleet.SHA256([]byte(token)))
		switch {
		case err != nil:
			return err
		case !ok:
			return fleet.Errorf(fleet.Unauthenticated, "the enrolment token is unknown").WithHint("make a new one: nixfleet machine token NAME")
		case row.UsedAt > 0 && row.KeyHash == keys.Certificate:
			der, machine = row.Certificate, row.Machine
			return nil
		case row.UsedAt > 0:
			return fleet.Errorf(fleet.Conflict, "the enrolment token was used before, with another key").WithHint("make a new one: nixfleet machine token %s", row.Machine)
		case row.ExpiresAt <= p.Now:
			return fleet.Errorf(fleet.Unauthenticated, "the enrolment token has expired").WithHint("make a new one: nixfleet machine token %s", row.Machine)
		}
		der, err = r.enroll(ctx, p, row, keys, issue)
		machine = row.Machine
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return der, machine, nil
}

func (r *Registrar) enroll(ctx context.Context, p *loop.Pass, row store.Token, keys Keys, issue Issue) ([]byte, error) {
	keyHash := keys.Certificate
	m, ok := p.Machine(row.Machine)
	if !ok {
		return nil, loop.NoMachine(row.Machine)
	}
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return nil, fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", m.ID)
	case m.EnrolledAt > 0 && !row.Replaces:
		return nil, fleet.Errorf(fleet.Conflict, "machine %s enrolled in the meantime", m.ID)
	}
	if err := r.mayEnroll(ctx, p, m, keys); err != nil {
		return nil, err
	}
	serial, der, notAfter, err := issue(row.Machine)
	if err != nil {
		return nil, err
	}
	if m.Key != keyHash { // one that waited to be adopted may keep it
		if err := r.End(ctx, p, &m); err != nil {
			return nil, err
		}
		m.Key = keyHash
	}
	if keys.Evidence != "" {
		m.EvidenceKey = keys.Evidence
	}
	issued := store.Certificate{Serial: serial, Machine: m.ID, Key: keyHash, IssuedAt: p.Now, NotAfter: notAfter, DER: der}
	if err := p.Tx.AddCertificate(ctx, issued); err != nil {
		return nil, err
	}
	row.UsedAt, row.KeyHash, row.Certificate = p.Now, keyHash, der
	if err := p.Tx.UseToken(ctx, row); err != nil {
		return nil, err
	}
	before := m.Lifecycle
	m.EnrolledAt = p.Now
	if m.Lifecycle == fleet.Pending || m.Lifecycle == fleet.Provisioning {
		m.Lifecycle = fleet.Active
	}
	if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
		return nil, err
	}
	p.Changed(m)
	if m.Lifecycle != before {
		if err := p.LifecycleChanged(ctx, m.ID); err != nil {
			return nil, err
		}
	}
	detail := map[string]string{"serial": serial, "key": string(keyHash)}
	if m.EvidenceKey != "" {
		detail["evidenceKey"], detail["proved"] = string(m.EvidenceKey), strconv.FormatBool(keys.Proved)
	}
	return der, p.Audit(ctx, "machine:"+string(m.ID), fleet.ActionMachineEnroll, "machine:"+string(m.ID), detail)
}

// mayEnroll refuses keys that have ended, and those that a machine in use has:
// whoever has a copy of them would keep its identity.
func (r *Registrar) mayEnroll(ctx context.Context, p *loop.Pass, m fleet.Machine, keys Keys) error {
	used, err := p.Tx.KeyEnded(ctx, keys.Certificate)
	if err != nil {
		return err
	}
	if keys.Evidence != "" {
		ended, err := p.Tx.KeyEnded(ctx, evidenceHash(keys.Evidence))
		if err != nil {
			return err
		}
		if ended || m.EnrolledAt > 0 && m.EvidenceKey == keys.Evidence {
			return fleet.Errorf(fleet.Conflict, "machine %s must enrol with a new evidence key: this one was used before", m.ID).
				WithHint("remove its file, by default /var/lib/nixfleet/agent/identity/evidence.pem, and enrol again with the same token")
		}
	}
	if used || m.EnrolledAt > 0 && m.Key == keys.Certificate {
		return fleet.Errorf(fleet.Conflict, "machine %s must enrol with a new key: this one was used before", m.ID).
			WithHint("remove its key file, by default /var/lib/nixfleet/agent/identity/key.pem, and enrol again with the same token")
	}
	return nil
}
