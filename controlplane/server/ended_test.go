// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/handshakes"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// openPlane is a control plane without listeners.
func openPlane(t *testing.T) *plane.Plane {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "nixfleet.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	p, err := plane.Open(t.Context(), plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: time.Now, EpochKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// A machine that is not known any more when its check-in is to be held is told so.
func TestHold_NeedsAMachineThatIsKnown(t *testing.T) {
	p := openPlane(t)
	s := &Server{plane: p, draining: t.Context()}
	if _, err := s.hold(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, api.PathCheckIn, nil), &hold{s: s, machine: "web-01"}); fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("got %v", err)
	}
}

// E09: a stream whose key has ended since the request was admitted does not begin.
func TestLasting_NeedsAKeyThatHasNotEnded(t *testing.T) {
	p := openPlane(t)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/events", nil)
	r.Header.Set("Authorization", "Bearer nfk_ended_secret")
	if _, _, err := (&Server{plane: p}).lasting(r); fleet.ErrorCode(err) != fleet.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

// A call is kept under its name for who has its key: one that cannot be read is
// nobody's.
func TestNamed_NeedsAKeyThatCanBeRead(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/keys", nil)
	r.Header.Set(api.IdempotencyKey, "mine")
	if _, err := (&Server{}).named(r, api.Operation{Method: http.MethodPost}, "id", "nfk_id_secret_no host"); err == nil {
		t.Error("a call is kept under a key that is none")
	}
}

// An address that has wasted too many connections is told so before anything is
// computed for it.
func TestAgentTLS_ShakesNoHandsWithWhoWastesThem(t *testing.T) {
	shakes, err := handshakes.New()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := &Server{shakes: shakes, clock: func() time.Time { return now }}
	conn := &fakeConn{address: "127.0.0.1:1"}
	address := host(conn.RemoteAddr().String())
	for range 1000 {
		shakes.Waste(address, now)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // those who may wait do not
	for err = context.Canceled; fleet.ErrorCode(err) != fleet.Unavailable; {
		err = shakes.Wait(ended, address, now)
	}
	if _, err = s.agentTLS().GetConfigForClient(&tls.ClientHelloInfo{Conn: conn}); fleet.ErrorCode(err) != fleet.Unavailable {
		t.Errorf("got %v", err)
	}
}
