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

	"github.com/arcanesys/nixfleet/api"
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
	err := k.store.WriteAudited(ctx, event, func(tx *store.Tx) error {
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
	key, ok, err := k.store.KeyByHash(ctx, fleet.SHA256([]byte(parts.Secret)))
	if err != nil {
		return Caller{}, err
	}
	now := k.clock.UnixMilli()
	if !ok || key.RevokedAt > 0 || key.ExpiresAt > 0 && key.ExpiresAt <= now {
		return Caller{}, refused
	}
	k.mu.Lock()
	k.uses[key.ID] = now
	k.mu.Unlock()
	return Caller{Owner: key.Owner, KeyID: key.ID, Role: key.Role, Tags: key.Tags, expiresAt: key.ExpiresAt}, nil
}

// Own returns the caller's key.
func (k *Keys) Own(ctx context.Context, c Caller) (fleet.Key, error) {
	return k.store.Key(ctx, c.KeyID)
}

// List returns API keys, oldest first, without their secrets. A caller who is
// limited to tags sees the keys that can do no more; a page may have fewer.
func (k *Keys) List(ctx context.Context, c Caller, p fleet.PageRequest) (api.Page[fleet.Key], error) {
	page, err := k.store.Keys(ctx, p)
	page.Items = slices.DeleteFunc(page.Items, func(o fleet.Key) bool { return !c.manages(o) })
	return page, err
}

// HasAdmin reports whether there is an admin key that was not revoked.
func (k *Keys) HasAdmin(ctx context.Context) (bool, error) {
	keys, err := k.store.AllKeys(ctx)
	return slices.ContainsFunc(keys, func(k fleet.Key) bool { return k.Role == fleet.RoleAdmin && k.RevokedAt == 0 }), err
}

// Create makes an API key; its secret is shown this once. A caller who is
// limited to tags cannot give away more than these.
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
	if !c.covers(in.Tags) {
		return api.NewKey{}, fleet.Errorf(fleet.Forbidden, "your key is limited to the tags %v, and so must be the keys that you make", c.Tags)
	}
	key := k.newKey(in)
	event := fleet.AuditEvent{
		At: now, Actor: c.Actor(), Action: fleet.ActionKeyCreate, Subject: "key:" + key.Key.ID,
		Detail: map[string]string{"owner": in.Owner, "role": string(in.Role)},
	}
	err := k.store.WriteAudited(ctx, event, func(tx *store.Tx) error { return tx.AddKey(ctx, key.Key, fleet.SHA256([]byte(key.Secret))) })
	if err != nil {
		return api.NewKey{}, err
	}
	return key, nil
}

// Rotate gives a key a new secret, shown this once; the old one ends.
func (k *Keys) Rotate(ctx context.Context, c Caller, id string) (api.NewKey, error) {
	var out api.NewKey
	event := fleet.AuditEvent{At: k.clock.UnixMilli(), Actor: c.Actor(), Action: fleet.ActionKeyRotate, Subject: "key:" + id}
	err := k.store.WriteAudited(ctx, event, func(tx *store.Tx) error {
		key, err := managed(ctx, tx, c, id)
		if err != nil {
			return err
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

// Revoke ends a key. The last admin key can't be revoked.
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
			return o.ID != id && o.Role == fleet.RoleAdmin && o.RevokedAt == 0 && (o.ExpiresAt == 0 || o.ExpiresAt > now)
		})
		if key.Role == fleet.RoleAdmin && key.RevokedAt == 0 && !others {
			return fleet.Errorf(fleet.Conflict, "key %s is the last admin key", id).WithHint("create another admin key first")
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
// no more than the caller's own.
func managed(ctx context.Context, tx *store.Tx, c Caller, id string) (fleet.Key, error) {
	key, err := tx.Key(ctx, id)
	if err != nil {
		return key, err
	}
	if !c.manages(key) {
		return key, fleet.Errorf(fleet.Forbidden, "key %s can do more than yours", id)
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
