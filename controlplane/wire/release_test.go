// SPDX-License-Identifier: AGPL-3.0-only

package wire

import (
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// A release is read as a stream, and as strictly as other bodies. What is too large
// is refused before it is in memory.
func TestDecodeRelease_IsStrict(t *testing.T) {
	entry := func(n int) string { return `"` + base64.StdEncoding.EncodeToString(make([]byte, n)) + `"` }
	for _, tc := range []struct {
		body string
		code fleet.Code
		says string
		want api.ReleaseRequest
	}{
		{body: ` { "entries": [ "YQ==", "Yg==" ], "envelope": "Yw\u003d=" } `, want: api.ReleaseRequest{Envelope: []byte("c"), Entries: [][]byte{[]byte("a"), []byte("b")}}},
		{body: `{"envelope":"YQ==","entries":[]}`, want: api.ReleaseRequest{Envelope: []byte("a")}},
		{body: `{}`},
		{body: `{"entries":[` + entry(fleet.MaxEntryBytes) + `]}`, want: api.ReleaseRequest{Entries: [][]byte{make([]byte, fleet.MaxEntryBytes)}}},
		{body: `{"entries":[` + entry(fleet.MaxEntryBytes+1) + `]}`, code: fleet.TooLarge},
		{body: `{"envelope":"` + strings.Repeat("A", 4*maxReleasePart) + `"}`, code: fleet.TooLarge},
		{body: `{"entries":["YQ=="],"entries":["Yg=="]}`, code: fleet.Invalid},
		{body: `{"entries":["YQ=="],"Entries":["Yg=="]}`, code: fleet.Invalid},
		{body: `{"entries":["YQ=="],"more":1}`, code: fleet.Invalid},
		{body: `{"entries":["YQ=="]}{}`, code: fleet.Invalid, says: "more text"},
		{body: `{"entries":["YQ=="]}}`, code: fleet.Invalid},
		{body: `{"entries":["YQ=="]} x`, code: fleet.Invalid},
		{body: `{"entries":{}}`, code: fleet.Invalid, says: `expected "["`},
		{body: `{"` + strings.Repeat("A", 4*maxReleasePart) + `":1}`, code: fleet.TooLarge},
		{body: `{"entries":[""` + strings.Repeat(`,""`, fleet.MaxEntries) + `]}`, code: fleet.TooLarge, says: "at most"},
		{body: `{"entries":["YQ=="]`, code: fleet.Invalid},
		{body: `{"entries":["YQ==",7]}`, code: fleet.Invalid},
		{body: `{"entries":"YQ=="}`, code: fleet.Invalid},
		{body: `[]`, code: fleet.Invalid, says: `expected "{"`},
		{body: ``, code: fleet.Invalid},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(tc.body))
		got, err := Release(httptest.NewRecorder(), r)
		if fleet.ErrorCode(err) != tc.code || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%.80s: %v, want %q", tc.body, err, tc.code)
			continue
		}
		if err == nil {
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%.80s: %s", tc.body, diff)
			}
		}
	}
	// Entries of one release do not run into each other.
	in, err := openBody(httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader(`{"entries":["YQ==","Yg=="]}`)), 100, 100).release()
	if err != nil {
		t.Fatal(err)
	}
	if _ = append(in.Entries[0], 'x'); string(in.Entries[1]) != "b" {
		t.Errorf("the second entry became %q", in.Entries[1])
	}
	_, err = openBody(httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader(fmt.Sprintf(`{"entries":["%s"]}`, strings.Repeat("A", 200)))), 100, 1000).release()
	if fleet.ErrorCode(err) != fleet.TooLarge {
		t.Errorf("a body above its limit: %v", err)
	}
}
