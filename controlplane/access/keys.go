// SPDX-License-Identifier: AGPL-3.0-only

package access

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/clock"
)

const (
	metaBootstrap     = "bootstrap"      // hash of the secret that may be exchanged now
	metaBootstrapUsed = "bootstrap-used" // hash of the one that was
	minSecret         = 16               // bytes of a bootstrap secret
	maxBearer         = 512              // bytes of a key with a host and a hash
)

// Keys are the operators' API keys.
type Keys struct {
	store *store.Store
	clock clock.Clock

	mu      sync.Mutex
	uses    map[string]int64             // key id -> last use, not written yet
	lasting map[string]map[*lasting]bool // key id -> streams, which end with the key
}

// NewKeys returns the keys that a store holds.
func NewKeys(s *store.Store, c clock.Clock) *Keys {
	return &Keys{store: s, clock: c, uses: map[string]int64{}, lasting: map[string]map[*lasting]bool{}}
}

// Flush writes when keys were last used.
func (k *Keys) Flush(ctx context.Context) error {
	k.mu.Lock()
	uses := k.uses
	k.uses = map[string]int64{}
	k.mu.Unlock()
	if len(uses) == 0 {
		return nil
	}
	if err := k.store.Write(ctx, func(tx *store.Tx) error { return tx.TouchKeys(ctx, uses) }); err != nil {
		return fmt.Errorf("write last uses of keys: %w", err)
	}
	return nil
}

// SetBootstrapSecret arms the one-time secret for the first admin key, as read
// from its file at each start. A secret that was used stays used. Another one
// arms it again, which helps when every admin key is lost: whoever can write
// the file is root here.
func (k *Keys) SetBootstrapSecret(ctx context.Context, secret string) error {
	if len(secret) < minSecret {
		return fleet.Errorf(fleet.Invalid, "the bootstrap secret has %d bytes; it must have at least %d", len(secret), minSecret)
	}
	hash := string(fleet.SHA256([]byte(secret)))
	return k.store.Write(ctx, func(tx *store.Tx) error {
		used, err := tx.Meta(ctx, metaBootstrapUsed)
		if err != nil || used == hash {
			return err
		}
		return tx.SetMeta(ctx, metaBootstrap, hash)
	})
}

// Bootstrap exchanges the one-time secret for an admin key. It works once.
func (k *Keys) Bootstrap(ctx context.Context, in api.BootstrapRequest) (api.NewKey, error) {
	if err := validOwner(in.Owner); err != nil {
		return api.NewKey{}, err
	}
	key := k.newKey(api.KeyRequest{Owner: in.Owner, Role: fleet.RoleAdmin})
	hash := string(fleet.SHA256([]byte(in.Secret)))
	event := fleet.AuditEvent{At: key.Key.CreatedAt, Actor: "key:" + in.Owner, Action: fleet.ActionBootstrap, Subject: "key:" + key.Key.ID}
	err := k.carryOut(ctx, event, &key, func(tx *store.Tx) error {
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

// Authenticate returns the operator who holds an API key. The error's code is
// Unauthenticated for one that is unknown, expired or revoked (E09). What binds a
// key to a control plane is for clients: it counts for nothing here.
func (k *Keys) Authenticate(ctx context.Context, bearer string) (Caller, error) {
	refused := fleet.Errorf(fleet.Unauthenticated, "the API key is unknown, expired or revoked").WithHint("ask an admin for a new key: nixfleet key create")
	if !strings.HasPrefix(bearer, fleet.KeyPrefix) || len(bearer) > maxBearer {
		return Caller{}, refused
	}
	parts, err := api.ParseKey(bearer)
	if err != nil {
		return Caller{}, refused
	}
	hash := fleet.SHA256([]byte(parts.Secret))
	key, ok, err := k.store.KeyByHash(ctx, hash)
	if err != nil {
		return Caller{}, err
	}
	now := k.clock.UnixMilli()
	if !ok || ended(key, now) {
		return Caller{}, refused
	}
	k.mu.Lock()
	k.uses[key.ID] = now
	k.mu.Unlock()
	return Caller{Owner: key.Owner, KeyID: key.ID, Role: key.Role, Tags: key.Tags, expiresAt: key.ExpiresAt, hash: hash}, nil
}

// Own returns the caller's key.
func (k *Keys) Own(ctx context.Context, c Caller) (fleet.Key, error) {
	return k.store.Key(ctx, c.KeyID)
}

// List returns API keys, oldest first, without their secrets. A caller who is
// limited to tags sees the keys that can do no more.
func (k *Keys) List(ctx context.Context, c Caller, p fleet.PageRequest) (api.Page[fleet.Key], error) {
	return paging.Keep(p, store.KeyOf, func(o fleet.Key) (bool, error) { return c.manages(o), nil }, func(p fleet.PageRequest) (api.Page[fleet.Key], error) {
		return k.store.Keys(ctx, p)
	})
}

// HasAdmin reports whether there is an admin key for the whole fleet that was
// not revoked.
func (k *Keys) HasAdmin(ctx context.Context) (bool, error) {
	keys, err := k.store.AllKeys(ctx)
	return slices.ContainsFunc(keys, func(k fleet.Key) bool { return ofFleet(k) && k.RevokedAt == 0 }), err
}

// ofFleet reports whether a key is an admin's and not limited to tags.
func ofFleet(k fleet.Key) bool { return k.Role == fleet.RoleAdmin && len(k.Tags) == 0 }

// Create makes an API key; its secret is shown this once. A caller who is
// limited to tags gives away no more than the own key has: its role, tags, owner
// and end.
func (k *Keys) Create(ctx context.Context, c Caller, in api.KeyRequest) (api.NewKey, error) {
	if err := validOwner(in.Owner); err != nil {
		return api.NewKey{}, err
	}
	now := k.clock.UnixMilli()
	switch {
	case !in.Role.Valid():
		return api.NewKey{}, fleet.Errorf(fleet.Invalid, "key: role %.40q is not auditor, readonly, deploy or admin", in.Role)
	case in.ExpiresAt != 0 && in.ExpiresAt <= now:
		return api.NewKey{}, fleet.Errorf(fleet.Invalid, "key: expiresAt is in the past")
	case !c.Role.Includes(in.Role):
		return api.NewKey{}, fleet.Errorf(fleet.Forbidden, "a key of role %s cannot make one of role %s", c.Role, in.Role)
	}
	in.Tags = fleet.NewTags(nil, in.Tags).Operator
	if err := fleet.ValidateTags(in.Tags); err != nil {
		return api.NewKey{}, err
	}
	if err := c.mayGive(in); err != nil {
		return api.NewKey{}, err
	}
	key := k.newKey(in)
	event := fleet.AuditEvent{
		At: now, Actor: c.Actor(), Action: fleet.ActionKeyCreate, Subject: "key:" + key.Key.ID,
		Detail: map[string]string{"owner": in.Owner, "role": string(in.Role)},
	}
	err := k.carryOut(ctx, event, &key, func(tx *store.Tx) error {
		if err := k.stillCounts(ctx, tx, c); err != nil {
			return err
		}
		return tx.AddKey(ctx, key.Key, fleet.SHA256([]byte(key.Secret)))
	})
	if err != nil {
		return api.NewKey{}, err
	}
	return key, nil
}

// carryOut writes what a call asks for and its audit entry, once: do sets out, the
// call's answer.
func (k *Keys) carryOut(ctx context.Context, event fleet.AuditEvent, out *api.NewKey, do func(tx *store.Tx) error) error {
	return k.store.Write(ctx, func(tx *store.Tx) error {
		return once.Do(ctx, tx, out, func() error {
			if err := do(tx); err != nil {
				return err
			}
			return tx.AddAudit(ctx, event)
		})
	})
}

// mayGive returns nil if the caller may make a key like in. A key under another
// owner's name would approve what its maker began, and act in that name.
func (c Caller) mayGive(in api.KeyRequest) error {
	switch {
	case !c.Limited():
		return nil
	case !c.covers(in.Tags):
		return fleet.Errorf(fleet.Forbidden, "your key is limited to the tags %v, and so must be the keys that you make", c.Tags)
	case in.Owner != c.Owner:
		return fleet.Errorf(fleet.Forbidden, "your key is limited to tags, so you make keys for its owner %s only", c.Owner).
			WithHint("an admin of the whole fleet makes keys for others")
	case !c.outlives(in.ExpiresAt):
		return fleet.Errorf(fleet.Forbidden, "your key ends %s, and so must the keys that you make", time.UnixMilli(c.expiresAt).UTC().Format(time.RFC3339)).
			WithHint("give --ttl")
	}
	return nil
}

// outlives reports whether the caller's key lasts as long as one that expires
// then; 0 stands for never.
func (c Caller) outlives(expiresAt int64) bool {
	return c.expiresAt == 0 || expiresAt != 0 && expiresAt <= c.expiresAt
}

// stillCounts returns nil if the secret that the caller came with is good in this
// transaction: nothing that a key gives away outlasts the key's end by a race.
func (k *Keys) stillCounts(ctx context.Context, tx *store.Tx, c Caller) error {
	key, ok, err := tx.KeyByHash(ctx, c.hash)
	if err != nil {
		return err
	}
	if !ok || key.ID != c.KeyID || ended(key, k.clock.UnixMilli()) {
		return errEnded
	}
	return nil
}

func ended(key fleet.Key, now int64) bool {
	return key.RevokedAt > 0 || key.ExpiresAt > 0 && key.ExpiresAt <= now
}

// Rotate gives a key a new secret, shown this once; the old one ends. A caller
// who is limited to tags does it for keys of the same owner that last no longer.
func (k *Keys) Rotate(ctx context.Context, c Caller, id string) (api.NewKey, error) {
	var out api.NewKey
	event := fleet.AuditEvent{At: k.clock.UnixMilli(), Actor: c.Actor(), Action: fleet.ActionKeyRotate, Subject: "key:" + id}
	err := k.carryOut(ctx, event, &out, func(tx *store.Tx) error {
		if err := k.stillCounts(ctx, tx, c); err != nil {
			return err
		}
		key, err := managed(ctx, tx, c, id)
		if err != nil {
			return err
		}
		if c.Limited() && (key.Owner != c.Owner || !c.outlives(key.ExpiresAt)) {
			return fleet.Errorf(fleet.Forbidden, "key %s is of another owner, or lasts longer than yours", id).
				WithHint("an admin of the whole fleet can give it a new secret")
		}
		out = api.NewKey{Key: key, Secret: newSecret(id)}
		return tx.RotateKey(ctx, id, fleet.SHA256([]byte(out.Secret)))
	})
	if err != nil {
		return api.NewKey{}, err
	}
	k.endUses(id)
	return out, nil
}

// Revoke ends a key. The last admin key for the whole fleet can't be revoked.
func (k *Keys) Revoke(ctx context.Context, c Caller, id string) (fleet.Key, error) {
	var out fleet.Key
	now := k.clock.UnixMilli()
	event := fleet.AuditEvent{At: now, Actor: c.Actor(), Action: fleet.ActionKeyRevoke, Subject: "key:" + id}
	err := k.store.WriteAudited(ctx, event, func(tx *store.Tx) error {
		key, err := managed(ctx, tx, c, id)
		if err != nil {
			return err
		}
		keys, err := tx.AllKeys(ctx)
		if err != nil {
			return err
		}
		others := slices.ContainsFunc(keys, func(o fleet.Key) bool {
			return o.ID != id && ofFleet(o) && !ended(o, now)
		})
		if ofFleet(key) && key.RevokedAt == 0 && !others {
			return fleet.Errorf(fleet.Conflict, "key %s is the last admin key for the whole fleet", id).WithHint("create another one first")
		}
		out = key
		out.RevokedAt = now
		return tx.RevokeKey(ctx, id, now)
	})
	if err == nil {
		k.endUses(id)
	}
	return out, err
}

// manages reports whether a key can do no more than the caller's own.
func (c Caller) manages(key fleet.Key) bool { return c.Role.Includes(key.Role) && c.covers(key.Tags) }

// managed returns a key that the caller may rotate or revoke: one that can do
// no more than the caller's own. A limited caller does not learn whether there is
// another.
func managed(ctx context.Context, tx *store.Tx, c Caller, id string) (fleet.Key, error) {
	key, err := tx.Key(ctx, id)
	unknown := fleet.ErrorCode(err) == fleet.NotFound
	if err != nil && !(unknown && c.Limited()) {
		return fleet.Key{}, err
	}
	if unknown || !c.manages(key) {
		return fleet.Key{}, fleet.Errorf(fleet.Forbidden, "there is no key %.40q that can do no more than yours", id)
	}
	return key, nil
}

func (k *Keys) newKey(in api.KeyRequest) api.NewKey {
	id := strings.ToLower(rand.Text()[:10])
	return api.NewKey{
		Key:    fleet.Key{ID: id, Owner: in.Owner, Role: in.Role, Tags: in.Tags, CreatedAt: k.clock.UnixMilli(), ExpiresAt: in.ExpiresAt},
		Secret: newSecret(id),
	}
}

// newSecret makes a bearer token: 260 random bits behind a prefix that secret
// scanners know.
func newSecret(id string) string {
	return fleet.KeyPrefix + id + "_" + strings.ToLower(rand.Text()+rand.Text())
}

func validOwner(owner string) error {
	if !fleet.Tag(owner).Valid() && !strings.Contains(owner, "@") || len(owner) > 63 || strings.ContainsFunc(owner, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fleet.Errorf(fleet.Invalid, "key: owner %.80q must be a name or an e-mail address, at most 63 characters", owner)
	}
	return nil
}
