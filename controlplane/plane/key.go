// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	metaBootstrap     = "bootstrap"      // hash of the secret that may be traded now
	metaBootstrapUsed = "bootstrap-used" // hash of the one that was
	minSecret         = 16               // bytes of a bootstrap secret
)

// SetBootstrapSecret arms the one-time secret for the first admin key, as read
// from its file at each start. A secret that was traded stays used; another one
// arms it again, which is the way back in when every admin key is lost: who can
// write the file is root here.
func (p *Plane) SetBootstrapSecret(ctx context.Context, secret string) error {
	if len(secret) < minSecret {
		return fleet.Errorf(fleet.Invalid, "the bootstrap secret has %d bytes; it must have at least %d", len(secret), minSecret)
	}
	hash := string(fleet.SHA256([]byte(secret)))
	return p.st.Write(ctx, func(tx *store.Tx) error {
		used, err := tx.Meta(ctx, metaBootstrapUsed)
		if err != nil || used == hash {
			return err
		}
		return tx.SetMeta(ctx, metaBootstrap, hash)
	})
}

// BootstrapKey trades the one-time secret for an admin key. It works once.
func (p *Plane) BootstrapKey(ctx context.Context, in api.BootstrapRequest) (api.NewKey, error) {
	if err := validOwner(in.Owner); err != nil {
		return api.NewKey{}, err
	}
	key, err := p.newKey(api.KeyRequest{Owner: in.Owner, Role: fleet.RoleAdmin})
	if err != nil {
		return api.NewKey{}, err
	}
	hash := string(fleet.SHA256([]byte(in.Secret)))
	event := fleet.AuditEvent{Actor: "key:" + in.Owner, Action: fleet.ActionBootstrap, Subject: "key:" + key.Key.ID}
	err = p.write(ctx, event, func(tx *store.Tx) error {
		armed, err := tx.Meta(ctx, metaBootstrap)
		if err != nil {
			return err
		}
		if armed == "" || subtle.ConstantTimeCompare([]byte(armed), []byte(hash)) != 1 {
			return fleet.Errorf(fleet.Unauthenticated, "the bootstrap secret is wrong, or was used before").
				WithHint("it is in the control plane's bootstrap secret file, and good for one key")
		}
		if err := tx.SetMeta(ctx, metaBootstrap, ""); err != nil {
			return err
		}
		if err := tx.SetMeta(ctx, metaBootstrapUsed, hash); err != nil {
			return err
		}
		return tx.AddKey(ctx, key.Key, fleet.SHA256([]byte(key.Secret)))
	})
	if err != nil {
		return api.NewKey{}, err
	}
	return key, nil
}

// Authenticate recognizes an operator by an API key. The error's code is
// Unauthenticated for one that is unknown, expired or revoked (E09).
func (p *Plane) Authenticate(ctx context.Context, bearer string) (Caller, error) {
	refused := fleet.Errorf(fleet.Unauthenticated, "the API key is unknown, expired or revoked").WithHint("ask an admin for a new key: nixfleet key create")
	if !strings.HasPrefix(bearer, fleet.KeyPrefix) || len(bearer) > 200 {
		return Caller{}, refused
	}
	k, ok, err := p.st.KeyByHash(ctx, fleet.SHA256([]byte(bearer)))
	if err != nil {
		return Caller{}, err
	}
	now := p.ms()
	if !ok || k.RevokedAt > 0 || k.ExpiresAt > 0 && k.ExpiresAt <= now {
		return Caller{}, refused
	}
	p.keyMu.Lock()
	p.keyUse[k.ID] = now
	p.keyMu.Unlock()
	return Caller{Owner: k.Owner, KeyID: k.ID, Role: k.Role, Tags: k.Tags}, nil
}

// Whoami returns the caller's key.
func (p *Plane) Whoami(ctx context.Context, c Caller) (fleet.Key, error) {
	return p.st.Key(ctx, c.KeyID)
}

// Keys returns API keys, oldest first, without their secrets.
func (p *Plane) Keys(ctx context.Context, page fleet.PageRequest) (api.Page[fleet.Key], error) {
	return p.st.Keys(ctx, page)
}

// HasAdminKey reports whether there is an admin key that was not revoked.
func (p *Plane) HasAdminKey(ctx context.Context) (bool, error) {
	keys, err := p.st.AllKeys(ctx)
	return slices.ContainsFunc(keys, func(k fleet.Key) bool { return k.Role == fleet.RoleAdmin && k.RevokedAt == 0 }), err
}

// CreateKey makes an API key; its secret is shown this once. A caller who is
// limited to tags cannot give away more than these.
func (p *Plane) CreateKey(ctx context.Context, c Caller, in api.KeyRequest) (api.NewKey, error) {
	if err := validOwner(in.Owner); err != nil {
		return api.NewKey{}, err
	}
	now := p.ms()
	switch {
	case !in.Role.Valid():
		return api.NewKey{}, fleet.Errorf(fleet.Invalid, "key: role %.40q is not readonly, deploy or admin", in.Role)
	case in.ExpiresAt != 0 && in.ExpiresAt <= now:
		return api.NewKey{}, fleet.Errorf(fleet.Invalid, "key: expiresAt is in the past")
	case !c.Role.Includes(in.Role):
		return api.NewKey{}, fleet.Errorf(fleet.Forbidden, "a key of role %s cannot make one of role %s", c.Role, in.Role)
	}
	in.Tags = fleet.NewTags(nil, in.Tags).Operator
	if err := fleet.ValidateTags(in.Tags); err != nil {
		return api.NewKey{}, err
	}
	if len(c.Tags) > 0 && (len(in.Tags) == 0 || !subset(in.Tags, c.Tags)) {
		return api.NewKey{}, fleet.Errorf(fleet.Forbidden, "your key is limited to the tags %v, and so must be the keys that you make", c.Tags)
	}
	key, err := p.newKey(in)
	if err != nil {
		return api.NewKey{}, err
	}
	event := fleet.AuditEvent{
		Actor: c.actor(), Action: fleet.ActionKeyCreate, Subject: "key:" + key.Key.ID,
		Detail: map[string]string{"owner": in.Owner, "role": string(in.Role)},
	}
	if err := p.write(ctx, event, func(tx *store.Tx) error { return tx.AddKey(ctx, key.Key, fleet.SHA256([]byte(key.Secret))) }); err != nil {
		return api.NewKey{}, err
	}
	return key, nil
}

// RotateKey gives a key a new secret, shown this once; the old one ends.
func (p *Plane) RotateKey(ctx context.Context, c Caller, id string) (api.NewKey, error) {
	var out api.NewKey
	event := fleet.AuditEvent{Actor: c.actor(), Action: fleet.ActionKeyRotate, Subject: "key:" + id}
	err := p.write(ctx, event, func(tx *store.Tx) error {
		k, err := p.mayManage(ctx, tx, c, id)
		if err != nil {
			return err
		}
		out = api.NewKey{Key: k, Secret: keySecret(id)}
		return tx.RotateKey(ctx, id, fleet.SHA256([]byte(out.Secret)))
	})
	if err != nil {
		return api.NewKey{}, err
	}
	return out, nil
}

// RevokeKey ends a key. The last admin key can't be revoked.
func (p *Plane) RevokeKey(ctx context.Context, c Caller, id string) (fleet.Key, error) {
	var out fleet.Key
	now := p.ms()
	event := fleet.AuditEvent{At: now, Actor: c.actor(), Action: fleet.ActionKeyRevoke, Subject: "key:" + id}
	err := p.write(ctx, event, func(tx *store.Tx) error {
		k, err := p.mayManage(ctx, tx, c, id)
		if err != nil {
			return err
		}
		keys, err := tx.AllKeys(ctx)
		if err != nil {
			return err
		}
		others := false
		for _, o := range keys {
			others = others || o.ID != id && o.Role == fleet.RoleAdmin && o.RevokedAt == 0 && (o.ExpiresAt == 0 || o.ExpiresAt > now)
		}
		if k.Role == fleet.RoleAdmin && k.RevokedAt == 0 && !others {
			return fleet.Errorf(fleet.Conflict, "key %s is the last admin key", id).WithHint("create another admin key first")
		}
		out = k
		out.RevokedAt = now
		return tx.RevokeKey(ctx, id, now)
	})
	return out, err
}

// mayManage returns a key that the caller may rotate or revoke: one that can
// do no more than his own.
func (p *Plane) mayManage(ctx context.Context, tx *store.Tx, c Caller, id string) (fleet.Key, error) {
	k, err := tx.Key(ctx, id)
	if err != nil {
		return k, err
	}
	if !c.Role.Includes(k.Role) || len(c.Tags) > 0 && (len(k.Tags) == 0 || !subset(k.Tags, c.Tags)) {
		return k, fleet.Errorf(fleet.Forbidden, "key %s can do more than yours", id)
	}
	return k, nil
}

func (p *Plane) newKey(in api.KeyRequest) (api.NewKey, error) {
	id := strings.ToLower(rand.Text()[:10])
	return api.NewKey{
		Key:    fleet.Key{ID: id, Owner: in.Owner, Role: in.Role, Tags: in.Tags, CreatedAt: p.ms(), ExpiresAt: in.ExpiresAt},
		Secret: keySecret(id),
	}, nil
}

// keySecret makes a bearer token: 260 random bits behind a prefix that secret
// scanners know.
func keySecret(id string) string {
	return fleet.KeyPrefix + id + "_" + strings.ToLower(rand.Text()+rand.Text())
}

func validOwner(owner string) error {
	if !fleet.Tag(owner).Valid() && !strings.Contains(owner, "@") || len(owner) > 63 || strings.ContainsFunc(owner, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fleet.Errorf(fleet.Invalid, "key: owner %.80q must be a name or an e-mail address, at most 63 characters", owner)
	}
	return nil
}

func subset(a, b []fleet.Tag) bool {
	for _, t := range a {
		if !hasTag(b, t) {
			return false
		}
	}
	return true
}

func hasTag(tags []fleet.Tag, tag fleet.Tag) bool {
	for _, t := range tags {
		if t == tag {
			return true
		}
	}
	return false
}

// mayTouch checks that a machine is one that the caller's key is for.
func (c Caller) mayTouch(m fleet.Machine) error {
	if len(c.Tags) == 0 {
		return nil
	}
	for _, t := range m.Tags.Effective {
		if hasTag(c.Tags, t) {
			return nil
		}
	}
	return fleet.Errorf(fleet.Forbidden, "machine %s has none of the tags %v that your key is for", m.ID, c.Tags)
}
