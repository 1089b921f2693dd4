// SPDX-License-Identifier: AGPL-3.0-only

package access

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

func newKeys(t *testing.T) *Keys {
	t.Helper()
	s, err := store.Open(context.Background(), store.Options{Path: filepath.Join(t.TempDir(), "a.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return NewKeys(s, nil)
}

// firstAdmin makes the first admin key, of the owner root.
func firstAdmin(t *testing.T, k *Keys) Caller {
	t.Helper()
	secret := strings.Repeat("s", minSecret)
	if err := k.SetBootstrapSecret(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	key, err := k.Bootstrap(t.Context(), api.BootstrapRequest{Secret: secret, Owner: "root"})
	if err != nil {
		t.Fatal(err)
	}
	return callerWith(t, k, key)
}

func callerWith(t *testing.T, k *Keys, key api.NewKey) Caller {
	t.Helper()
	c, err := k.Authenticate(t.Context(), key.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func created(t *testing.T, k *Keys, c Caller, in api.KeyRequest) api.NewKey {
	t.Helper()
	key, err := k.Create(t.Context(), c, in)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func refused(t *testing.T, what string, err error, want fleet.Code) {
	t.Helper()
	if got := fleet.ErrorCode(err); got != want {
		t.Errorf("%s: %v, want code %q", what, err, want)
	}
}

var web = []fleet.Tag{"web"}

// E09: a key that is limited to tags gives nobody another owner's name, nor a
// longer life than its own.
func TestCreate_GivesNoMoreThanTheKeyItselfHas(t *testing.T) {
	k := newKeys(t)
	root := firstAdmin(t, k)
	soon, later := time.Now().Add(time.Hour).UnixMilli(), time.Now().Add(2*time.Hour).UnixMilli()
	bob := callerWith(t, k, created(t, k, root, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin, Tags: web, ExpiresAt: soon}))
	good := api.KeyRequest{Owner: "bob", Role: fleet.RoleDeploy, Tags: web, ExpiresAt: soon}
	created(t, k, bob, good)
	for what, change := range map[string]func(*api.KeyRequest){
		"another owner": func(r *api.KeyRequest) { r.Owner = "carol" },
		"a new owner":   func(r *api.KeyRequest) { r.Owner = "bob2" },
		"longer":        func(r *api.KeyRequest) { r.ExpiresAt = later },
		"for ever":      func(r *api.KeyRequest) { r.ExpiresAt = 0 },
		"other tags":    func(r *api.KeyRequest) { r.Tags = []fleet.Tag{"web", "db"} },
		"all machines":  func(r *api.KeyRequest) { r.Tags = nil },
	} {
		in := good
		change(&in)
		_, err := k.Create(t.Context(), bob, in)
		refused(t, what, err, fleet.Forbidden)
	}
	// What is not made is not taken either: a new secret is another's key.
	for what, in := range map[string]api.KeyRequest{
		"carol's":      {Owner: "carol", Role: fleet.RoleReadonly, Tags: web, ExpiresAt: soon},
		"bob's longer": {Owner: "bob", Role: fleet.RoleReadonly, Tags: web, ExpiresAt: later},
	} {
		key := created(t, k, root, in)
		_, err := k.Rotate(t.Context(), bob, key.Key.ID)
		refused(t, "rotate "+what, err, fleet.Forbidden)
		callerWith(t, k, key) // still good
		if _, err := k.Revoke(t.Context(), bob, key.Key.ID); err != nil {
			t.Errorf("revoke %s: %v", what, err)
		}
	}
	// A key that can do more is as one that is not there.
	_, err := k.Rotate(t.Context(), bob, root.KeyID)
	_, none := k.Rotate(t.Context(), bob, "nosuchkey0")
	if strings.ReplaceAll(err.Error(), root.KeyID, "nosuchkey0") != none.Error() || fleet.ErrorCode(err) != fleet.ErrorCode(none) {
		t.Errorf("rotate tells whether there is a key: %v, and %v", err, none)
	}
}

// E09: what began before a key ended makes no key after it.
func TestCreate_IsRefusedToAKeyThatHasEndedSince(t *testing.T) {
	k := newKeys(t)
	root := firstAdmin(t, k)
	for what, end := range map[string]func(id string) error{
		"revoked": func(id string) error { _, err := k.Revoke(t.Context(), root, id); return err },
		"rotated": func(id string) error { _, err := k.Rotate(t.Context(), root, id); return err },
	} {
		thief := callerWith(t, k, created(t, k, root, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin}))
		other := created(t, k, root, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin})
		if err := end(thief.KeyID); err != nil {
			t.Fatal(err)
		}
		_, err := k.Create(t.Context(), thief, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin})
		refused(t, "create with a key that was "+what, err, fleet.Unauthenticated)
		_, err = k.Rotate(t.Context(), thief, other.Key.ID)
		refused(t, "rotate with a key that was "+what, err, fleet.Unauthenticated)
	}
}

// The last admin of the whole fleet stays, however many limited ones there are.
func TestRevoke_LeavesAnAdminOfTheWholeFleet(t *testing.T) {
	k := newKeys(t)
	root := firstAdmin(t, k)
	created(t, k, root, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin, Tags: web})
	_, err := k.Revoke(t.Context(), root, root.KeyID)
	refused(t, "revoke the last", err, fleet.Conflict)
	second := callerWith(t, k, created(t, k, root, api.KeyRequest{Owner: "alice", Role: fleet.RoleAdmin}))
	if _, err = k.Revoke(t.Context(), root, root.KeyID); err != nil {
		t.Error(err)
	}
	has, err := k.HasAdmin(t.Context())
	if err != nil || !has {
		t.Errorf("there is an admin: %t, %v", has, err)
	}
	_, err = k.Revoke(t.Context(), second, second.KeyID)
	refused(t, "revoke the last but the limited", err, fleet.Conflict)
}

// A page of a limited key's list tells nothing of the keys that are not in it.
func TestList_TellsALimitedKeyNothingOfOthers(t *testing.T) {
	k := newKeys(t)
	root := firstAdmin(t, k)
	bob := callerWith(t, k, created(t, k, root, api.KeyRequest{Owner: "bob", Role: fleet.RoleAdmin, Tags: web}))
	for range 3 {
		created(t, k, root, api.KeyRequest{Owner: "eve", Role: fleet.RoleReadonly})
		created(t, k, bob, api.KeyRequest{Owner: "bob", Role: fleet.RoleReadonly, Tags: web})
	}
	seen := 0
	for p := (fleet.PageRequest{Limit: 1}); ; {
		page, err := k.List(t.Context(), bob, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Items) != 1 || page.Items[0].Owner != "bob" {
			t.Fatalf("a page of one has %+v", page.Items)
		}
		seen++
		if p.Cursor = page.Next; p.Cursor == "" {
			break
		}
	}
	if seen != 4 {
		t.Errorf("saw %d keys, want 4", seen)
	}
}
