// SPDX-License-Identifier: MIT

package documents

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// FuzzReadFile reads a file that another signer sends: what is taken is written
// again with the same meaning, what it says fits a terminal, and a release's header
// says of its entries what they are.
func FuzzReadFile(f *testing.F) {
	acme := trusttest.New(f, "acme", nil)
	r := acme.Release(acme.Header(1), trusttest.Entry("web-01", "a"))
	release, err := json.Marshal(api.ReleaseRequest{Envelope: r.Envelope, Entries: r.Raw})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(release)
	f.Add(r.Envelope)
	f.Add(acme.RootEnvelope)
	f.Add([]byte(strings.Replace(string(release), `"entries":["`, `"entries":["AAAA`, 1)))
	f.Add([]byte(`{"envelope":null,"entries":[]}`))
	now := time.UnixMilli(trusttest.Now)
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(b []byte) (File, error) {
			return Host{Read: func(string, int64) ([]byte, error) { return b, nil }}.ReadFile("a.json", now)
		}
		got, err := read(data)
		if err != nil {
			if !fleet.ErrorCode(err).Valid() || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("%q: refused by %q, code %q", data, err, fleet.ErrorCode(err))
			}
			return
		}
		if got.Header != nil && (got.Checked == nil || got.Header.Entries.Count != len(got.Entries)) {
			t.Fatalf("%q: a release with the entries %+v", data, got.Entries)
		}
		text, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := read(text)
		if again, _ := back.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q became %q, %v", text, again, err)
		}
		for _, line := range got.Describe(&acme.Root) {
			if strings.ContainsFunc(line, unicode.IsControl) {
				t.Fatalf("%q says %q", data, line)
			}
		}
	})
}
