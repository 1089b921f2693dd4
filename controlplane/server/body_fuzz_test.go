// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/wiretest"
)

// FuzzUnmarshalStrict reads operators' bodies: nothing that is not known passes,
// and what passes has one meaning.
func FuzzUnmarshalStrict(f *testing.F) {
	for i, s := range []string{
		`{"spec":{"release":"sha256:","select":["web-*"],"strategy":"all-at-once"},"dryRun":true}`, `{"owner":"a","role":"admin","tags":["web"]}`,
		`{"id":"web-01","tags":["a"]}`, `{"envelope":"e30=","entries":["e30="]}`, `{} {}`, `{"mood":1}`,
	} {
		f.Add(i, []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind int, body []byte) {
		switch uint(kind) % 4 {
		case 0:
			strict[api.RolloutRequest](t, body)
		case 1:
			strict[api.KeyRequest](t, body)
		case 2:
			strict[api.MachineRequest](t, body)
		case 3:
			strict[api.ReleaseRequest](t, body)
		}
	})
}

func strict[T any](t *testing.T, body []byte) {
	t.Helper()
	var v T
	if unmarshalStrict(body, &v) != nil {
		return
	}
	if !json.Valid(body) {
		t.Fatalf("%q was taken", body)
	}
	wiretest.Again(t, v, func(text []byte) (v T, err error) {
		err = unmarshalStrict(text, &v)
		return v, err
	})
}

// FuzzReadCAs reads a file of certificates that another program writes, as ACME
// clients do.
func FuzzReadCAs(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("none"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		list, pool, err := readCAs("tls.caFile", file)
		if (err == nil) != (len(list) > 0) || err == nil && pool == nil || err != nil && fleet.ErrorCode(err) != fleet.Invalid {
			t.Fatalf("%d certificates, %v", len(list), errors.Unwrap(err))
		}
	})
}
