// SPDX-License-Identifier: AGPL-3.0-only

package wire

import (
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/wiretest"
)

// mostMemory is what decoding a body of n bytes may allocate, garbage included.
func mostMemory(n int) uint64 { return 256<<10 + 64*uint64(n) }

// decoded reads a body and fails if that takes too much memory, or refuses it
// without a code that is the sender's fault.
func decoded[T any](t *testing.T, body []byte, fn func() (T, error)) (T, bool) {
	t.Helper()
	var v T
	var err error
	if got := allocated(func() { v, err = fn() }); got > mostMemory(len(body)) {
		t.Fatalf("%d bytes allocated %d", len(body), got)
	}
	if code := fleet.ErrorCode(err); err != nil && code != fleet.Invalid && code != fleet.TooLarge && code != fleet.Forbidden {
		t.Fatalf("%v with code %q", err, code)
	}
	return v, err == nil
}

// FuzzDecodeReports feeds the parser what a machine could send: it ends, keeps to
// its limits, takes reports of this machine only (E07), and gives them one meaning.
func FuzzDecodeReports(f *testing.F) {
	for _, s := range []string{
		`{"reports":[{"machine":"web-01","id":"1","kind":"drift"}]}`, `{"reports":[{}`, `{"mood":[[[`, `[]`, `{"reports":null}`,
		`{"reports":[{"machine":"web-01","checks":[{"name":"a"}],"failedUnits":["b"]}],"x":1}`, `{"reports":[],"reports":[{"machine":"db-01"}]}`,
		`{"reports":[{"machine":"web-01","checks":[{}],"checks":[{},{}],"at":1e400}]}`,
	} {
		f.Add([]byte(s))
	}
	read := func(body []byte) ([]fleet.Report, error) {
		w, r := post(body)
		return Reports(w, r, "web-01", most)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		reports, ok := decoded(t, body, func() ([]fleet.Report, error) { return read(body) })
		if !ok {
			return
		}
		if len(reports) > most {
			t.Fatalf("%d reports came through", len(reports))
		}
		for _, rep := range reports {
			if rep.Machine.Valid() && rep.Machine != "web-01" || len(rep.Checks) > fleet.MaxChecks || len(rep.Failed) > fleet.MaxFailedUnits {
				t.Fatalf("%+v came through", rep)
			}
		}
		wiretest.Again(t, api.Reports{Reports: reports}, func(text []byte) (api.Reports, error) {
			reports, err := read(text)
			return api.Reports{Reports: reports}, err
		})
	})
}

// FuzzDecodeCheckIn is the same for what a machine says of itself.
func FuzzDecodeCheckIn(f *testing.F) {
	for _, s := range []string{
		`{"machine":"web-01","state":"idle","tags":["a"],"checks":[{"name":"a","status":"passing"}],"waitMs":55000,"running":"/nix/store/x"}`,
		`{"machine":"web-01","reports":[{"machine":"web-01","id":"1","kind":"drift","checks":[{"status":1}]},7,{"machine":"web-01","at":"now"}]}`, `{"machine":"web-01","reports":{}}`,
		`{"machine":7,"waitMs":"long","documents":[]}`, `{"tags":[["a"]],"tags":["b"]}`, `null`, `{"machine":"web-01"} {}`,
	} {
		f.Add([]byte(s))
	}
	read := func(body []byte) (api.CheckIn, error) {
		w, r := post(body)
		return CheckIn(w, r, "web-01")
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in, ok := decoded(t, body, func() (api.CheckIn, error) { return read(body) })
		if !ok {
			return
		}
		if len(in.Checks) > fleet.MaxChecks || len(in.Tags) > fleet.MaxTags || len(in.Reports) > api.MaxRiding || len(body) > maxCheckIn {
			t.Fatalf("%d bytes: %d checks, %d tags, %d reports came through", len(body), len(in.Checks), len(in.Tags), len(in.Reports))
		}
		for _, rep := range append(in.Reports, fleet.Report{Machine: in.Machine}) {
			if rep.Machine.Valid() && rep.Machine != "web-01" {
				t.Fatalf("%+v came through", rep)
			}
		}
		wiretest.Again(t, in, read)
	})
}

// FuzzDecodeCertificateRequests is the same for enrolments and renewals, of which
// the first need no certificate.
func FuzzDecodeCertificateRequests(f *testing.F) {
	f.Add([]byte(`{"token":"nft_web-01_s_c","csr":"MAA="}`))
	f.Add([]byte(`{"csr":"!"}`))
	f.Add([]byte(`{"csr":[1,2]}`))
	read := func(body []byte) (api.EnrollRequest, error) {
		w, r := post(body)
		var in api.EnrollRequest
		err := Decode(w, r, MaxCSR, &in)
		return in, err
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in, ok := decoded(t, body, func() (api.EnrollRequest, error) { return read(body) })
		if !ok {
			return
		}
		if len(body) > MaxCSR {
			t.Fatalf("%d bytes came through", len(body))
		}
		wiretest.Again(t, in, read)
	})
}
