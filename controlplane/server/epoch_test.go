// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// E12: a database is replaced by an older copy under a fleet at work, and an
// operator is the first to come. What the operator's client has seen is proof, with
// any key, also one that the copy does not know.
func TestOperators_NoticeARestoredDatabase(t *testing.T) {
	for name, forgotten := range map[string]bool{"with a key that it knows": false, "with a key that it has lost": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			file, copied := filepath.Join(s.dir, "nixfleet.db"), filepath.Join(t.TempDir(), "copy.db")
			s.stop()
			move(t, file, copied)
			s.start()
			admin := s.operator(s.secretOfAdmin)
			latest := ""
			seeing := func(key, epoch string) *api.Client {
				c := must[*api.Client](t)(api.NewClient(api.ClientConfig{
					BaseURL: base(s.addrs.Operators), Key: key, TLS: &tls.Config{RootCAs: s.caPool(), Time: s.now},
					Epoch: epoch, SawEpoch: func(e string) { latest = e },
				}))
				s.closeLater(c)
				return c
			}
			key := s.secretOfAdmin
			if forgotten {
				key = s.secret(admin, fleet.RoleReadonly)
			}
			must[fleet.Machine](t)(admin.SetTags(t.Context(), "web-01", api.TagsRequest{Tags: []fleet.Tag{"later"}}))
			must[fleet.Key](t)(seeing(key, "").Whoami(t.Context()))
			mode := func() string {
				t.Helper()
				return must[api.Info](t)(s.operator("").Info(t.Context())).Mode
			}
			s.stop()
			s.start()
			_, err := seeing(key, latest).Whoami(t.Context())
			if err != nil || mode() != "normal" {
				t.Fatalf("after a restart the mode is %s: %v", mode(), err)
			}

			proof := latest
			s.stop()
			move(t, copied, file)
			s.start()
			_, _ = seeing(key, "").Whoami(t.Context()) // refused if the copy does not know the key
			if mode() != "normal" {
				t.Fatal("it was noticed without an echo")
			}
			_, err = seeing(key, proof).Whoami(t.Context())
			if (fleet.ErrorCode(err) == fleet.Unauthenticated) != forgotten || mode() != "restored" {
				t.Errorf("an operator's echo: the mode is %s: %v", mode(), err)
			}
			paused := 0
			for r, err := range api.All(t.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
				return s.operator(s.secretOfAdmin).Rollouts(ctx, fleet.RolloutFilter{}, p)
			}) {
				if err != nil || !r.State.Final() && r.State != fleet.RolloutPaused {
					t.Errorf("rollout %s is %s: %v", r.ID, r.State, err)
				}
				if r.State == fleet.RolloutPaused {
					paused++
				}
			}
			if paused == 0 {
				t.Error("no rollout is paused")
			}
		})
	}
}

// move puts a database's file in another's place.
func move(t *testing.T, from, to string) {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(from))
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(to + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
