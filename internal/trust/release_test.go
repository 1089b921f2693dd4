// SPDX-License-Identifier: MIT

package trust_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

func TestNewRelease_SortsEntriesAndGivesEachMachineItsProof(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	web := trusttest.Entry("web-01", "a")
	web.Tags = []fleet.Tag{"web", "prod", "web"}
	r := f.Release(f.Header(1), web, trusttest.Entry("db-01", "a"), trusttest.Entry("web-02", "a"))
	ids := []fleet.MachineID{}
	for _, e := range r.Entries {
		ids = append(ids, e.ID)
		b := f.Bundle(r, e.ID)
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := trust.ParseBundle(text)
		if err != nil {
			t.Fatal(err)
		}
		got, refusal := trust.Accept(f.State(e.ID), trusttest.Now, parsed)
		if refusal != nil {
			t.Fatalf("%s: %v", e.ID, refusal)
		}
		want := trust.Accepted{Digest: r.Digest, Header: r.Header, Entry: e, Line: "main"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.ID, diff)
		}
	}
	if diff := cmp.Diff([]fleet.MachineID{"db-01", "web-01", "web-02"}, ids); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Tag{"prod", "web"}, r.Entries[1].Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Tag{"web", "prod", "web"}, web.Tags); diff != "" {
		t.Errorf("the caller's tags changed:\n%s", diff)
	}
	if _, ok := r.Bundle("web-03"); ok {
		t.Error("a bundle for a machine without an entry")
	}
}

func TestNewRelease_NamesWhatIsWrong(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	h := f.Header(1)
	a := trusttest.Entry("web-01", "a")
	badPath, critical, big := a, a, a
	badPath.StorePath = "/tmp/x"
	critical.Crit = []string{"sandbox"}
	big.Fingerprints.Parameters = strings.Repeat("x", fleet.MaxEntryBytes)
	noCaches := h
	noCaches.Caches = nil
	expired := h
	expired.Expires = h.CreatedAt
	for name, tc := range map[string]struct {
		h       fleet.Header
		entries []fleet.Entry
		want    string // part of the message; "" is no error
	}{
		"good":           {h, []fleet.Entry{a}, ""},
		"no caches":      {noCaches, []fleet.Entry{a}, ""},
		"no entries":     {h, nil, "0 entries"},
		"two for one":    {h, []fleet.Entry{a, a}, "two entries for web-01"},
		"a bad path":     {h, []fleet.Entry{badPath}, "entry web-01: storePath"},
		"unknown crit":   {h, []fleet.Entry{critical}, "entry web-01: critical-field"},
		"a big entry":    {h, []fleet.Entry{big}, "entry web-01: too-large"},
		"expires before": {expired, []fleet.Entry{a}, "expires must be later"},
	} {
		_, _, err := trust.NewRelease(tc.h, tc.entries)
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || fleet.ErrorCode(err) != fleet.Invalid) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

func TestCheckRelease_RecomputesAll(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	evil := trusttest.New(t, "evil", nil)
	a, b := trusttest.Entry("web-01", "a"), trusttest.Entry("web-02", "a")
	envelope, raw := f.Unchecked(f.Header(3), []fleet.Entry{a, b}, "acme-release")
	unsigned, _ := f.Unchecked(f.Header(3), []fleet.Entry{a, b})
	swapped := append([][]byte{}, raw[1], raw[0])
	otherPath := [][]byte{raw[0], bytes.Replace(raw[1], []byte("-nixos-system"), []byte("-other-system"), 1)}
	twins := func() []byte { // what a faulty tool could sign
		h := f.Header(3)
		h.Entries = fleet.EntriesRef{Count: 2, Root: trust.NewTree([][]byte{raw[0], raw[0]}).Root()}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return f.Sign(fleet.TypeRelease, text, "acme-release")
	}()
	ended := f.Root
	ended.Expires = trusttest.Now
	miscounted := func() []byte {
		h := f.Header(3)
		h.Entries = fleet.EntriesRef{Count: 3, Root: trust.NewTree(raw).Root()}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return f.Sign(fleet.TypeRelease, text, "acme-release")
	}()
	for name, tc := range map[string]struct {
		envelope []byte
		raw      [][]byte
		root     *fleet.Root
		now      int64
		want     fleet.Reason
	}{
		"good":                 {envelope, raw, &f.Root, trusttest.Now, ""},
		"unsigned mode":        {unsigned, raw, nil, trusttest.Now, ""},
		"unsigned":             {unsigned, raw, &f.Root, trusttest.Now, "not-signed"},
		"another fleet's root": {envelope, raw, &evil.Root, trusttest.Now, "unknown-key"},
		"an entry missing":     {envelope, raw[:1], &f.Root, trusttest.Now, "proof-mismatch"},
		"another path":         {envelope, otherPath, &f.Root, trusttest.Now, "proof-mismatch"},
		"another order":        {envelope, swapped, &f.Root, trusttest.Now, "malformed"},
		"an entry twice":       {twins, [][]byte{raw[0], raw[0]}, &f.Root, trusttest.Now, "malformed"},
		"expired":              {envelope, raw, &f.Root, trusttest.Now + 30*trusttest.Day, "expired"},
		"root expired":         {envelope, raw, &ended, trusttest.Now, "expired"},
		"another count":        {miscounted, raw, &f.Root, trusttest.Now, "proof-mismatch"},
		"no envelope":          {nil, raw, &f.Root, trusttest.Now, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := trust.CheckRelease(tc.envelope, tc.raw, tc.root, tc.now)
			if trust.ReasonOf(err) != tc.want || (err == nil) != (tc.want == "") {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if err == nil && (r.Header.Sequence != 3 || len(r.Entries) != 2) {
				t.Errorf("got %+v", r.Header)
			}
			if err != nil && fleet.ErrorCode(err) != fleet.Refused {
				t.Errorf("code %s, want refused", fleet.ErrorCode(err))
			}
		})
	}
}

func TestLifeUsed_IsAPercentOfTheDocumentsLife(t *testing.T) {
	for now, want := range map[int64]int{0: 0, 1000: 0, 1499: 49, 1500: 50, 1750: 75, 1999: 99, 2000: 100, 9000: 100} {
		if got := trust.LifeUsed(1000, 2000, now); got != want {
			t.Errorf("at %d: %d %%, want %d", now, got, want)
		}
	}
	if before, after := trust.LifeUsed(0, 2000, 1999), trust.LifeUsed(0, 2000, 2000); before != 0 || after != 100 {
		t.Errorf("without a time of signing: %d %%, then %d %%", before, after)
	}
}

func BenchmarkAccept(b *testing.B) {
	f := trusttest.New(b, "acme", nil)
	entries := make([]fleet.Entry, 1000)
	for i := range entries {
		entries[i] = trusttest.Entry(fleet.MachineID(fmt.Sprintf("web-%04d", i)), "a")
	}
	bundle := f.Bundle(f.Release(f.Header(1), entries...), "web-0500")
	s := f.State("web-0500")
	b.ReportAllocs()
	for b.Loop() {
		if _, refusal := trust.Accept(s, trusttest.Now, bundle); refusal != nil {
			b.Fatal(refusal)
		}
	}
}

// BenchmarkCheckRelease is what registering a release of 10,000 machines costs.
func BenchmarkCheckRelease(b *testing.B) {
	f := trusttest.New(b, "acme", nil)
	entries := make([]fleet.Entry, 10_000)
	for i := range entries {
		entries[i] = trusttest.Entry(fleet.MachineID(fmt.Sprintf("web-%05d", i)), "a")
	}
	envelope, raw := f.Unchecked(f.Header(1), entries, "acme-release")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := trust.CheckRelease(envelope, raw, &f.Root, trusttest.Now); err != nil {
			b.Fatal(err)
		}
	}
}
