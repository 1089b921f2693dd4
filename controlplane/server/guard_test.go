// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestBearer_IsOneKey(t *testing.T) {
	for header, want := range map[string]string{"Bearer nfk_a": "nfk_a", "bearer  nfk_a": "nfk_a", "": "", "Bearer": "", "Bearer ": "", "Basic nfk_a": "", "nfk_a": ""} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", header)
		got, err := bearer(r)
		if got != want || (want == "") != (fleet.ErrorCode(err) == fleet.Unauthenticated) {
			t.Errorf("%q: %q, %v", header, got, err)
		}
		if want != "" {
			continue
		}
		// Before anything is looked up, so that the reply names what is missing.
		if _, _, err := (&Server{}).authenticate(r); fleet.ErrorCode(err) != fleet.Unauthenticated {
			t.Errorf("%q: authenticated: %v", header, err)
		}
		if _, _, err := (&Server{}).lasting(r); fleet.ErrorCode(err) != fleet.Unauthenticated {
			t.Errorf("%q: lasting: %v", header, err)
		}
	}
}

func TestStart_IsAnEvent(t *testing.T) {
	for id, want := range map[string]int64{"": 5, "7": 7, "0": -1, "x": 0, "-7": 0, "7 ": 0} {
		got, err := (&eventsIn{After: 5, LastEventID: id}).start()
		if got != want || (want == 0) != (fleet.ErrorCode(err) == fleet.Invalid) {
			t.Errorf("%q: %d, %v; want %d", id, got, err, want)
		}
	}
}

// A reply that cannot be encoded is none.
func TestAnswer_SendsNoHalfReply(t *testing.T) {
	w := httptest.NewRecorder()
	(&Server{}).answer(w, &record{}, func() {}, nil)
	if w.Code != 500 || !strings.Contains(w.Body.String(), string(fleet.Internal)) {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
}

// E07: a connection without TLS, without a certificate, or with one that names no
// machine, is no machine's.
func TestMachineOf_WantsAMachinesName(t *testing.T) {
	now := time.Now()
	s := &Server{identity: &Identity{}, clock: func() time.Time { return now }}
	named := func(name string) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		}}}
	}
	for what, cs := range map[string]*tls.ConnectionState{"no TLS": nil, "no certificate": {}, "no name": named(""), "no machine's name": named("Web 01")} {
		if _, err := s.machineOf(t.Context(), cs, true); fleet.ErrorCode(err) != fleet.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
	}
}
