// SPDX-License-Identifier: AGPL-3.0-only

package access

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// E09: a use that goes on ends with its key, at once.
func TestWhile_EndsWithTheKey(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(t *testing.T, k *Keys, admin Caller, key fleet.Key) error
		after time.Duration
		ends  bool
	}{
		{"revoked", func(t *testing.T, k *Keys, admin Caller, key fleet.Key) error {
			_, err := k.Revoke(t.Context(), admin, key.ID)
			return err
		}, 0, true},
		{"rotated", func(t *testing.T, k *Keys, admin Caller, key fleet.Key) error {
			_, err := k.Rotate(t.Context(), admin, key.ID)
			return err
		}, 0, true},
		{"expired", func(*testing.T, *Keys, Caller, fleet.Key) error { return nil }, time.Hour, true},
		{"good", func(*testing.T, *Keys, Caller, fleet.Key) error { return nil }, time.Hour - time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := store.Open(context.Background(), store.Options{Path: filepath.Join(t.TempDir(), "a.db")})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if cerr := s.Close(); cerr != nil {
						t.Error(cerr)
					}
				}()
				k := NewKeys(s, nil)
				admin := firstAdmin(t, k)
				key, err := k.Create(t.Context(), admin, api.KeyRequest{Owner: "alice", Role: fleet.RoleReadonly, ExpiresAt: time.Now().Add(time.Hour).UnixMilli()})
				if err != nil {
					t.Fatal(err)
				}
				ctx, done, err := k.While(t.Context(), key.Secret)
				if err != nil {
					t.Fatal(err)
				}
				if err := tt.end(t, k, admin, key.Key); err != nil {
					t.Fatal(err)
				}
				limit := time.NewTimer(tt.after)
				<-limit.C
				synctest.Wait()
				if got := fleet.ErrorCode(context.Cause(ctx)) == fleet.Unauthenticated; got != tt.ends {
					t.Errorf("after %s: %v", tt.after, context.Cause(ctx))
				}
				done()
				if len(k.lasting) != 0 {
					t.Errorf("%d uses are kept", len(k.lasting))
				}
				if tt.ends {
					if _, _, err := k.While(t.Context(), key.Secret); fleet.ErrorCode(err) != fleet.Unauthenticated {
						t.Errorf("another use: %v", err)
					}
				}
			})
		})
	}
}

// E09: also when the clock is set, a use does not outlive its key for long.
func TestWhile_EndsWhenTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(context.Background(), store.Options{Path: filepath.Join(t.TempDir(), "a.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		set := make(chan time.Duration, 1) // by how much the clock is ahead
		set <- 0
		k := NewKeys(s, func() time.Time {
			ahead := <-set
			set <- ahead
			return time.Now().Add(ahead)
		})
		key, err := k.Create(t.Context(), firstAdmin(t, k), api.KeyRequest{Owner: "alice", Role: fleet.RoleReadonly, ExpiresAt: time.Now().Add(time.Hour).UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, done, err := k.While(t.Context(), key.Secret)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		<-set
		set <- 2 * time.Hour
		begin := time.Now()
		<-ctx.Done()
		if took := time.Since(begin); took > expiryCheck {
			t.Errorf("the use went on for %s", took)
		}
	})
}
