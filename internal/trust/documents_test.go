// SPDX-License-Identifier: MIT

package trust_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// An invalid document is refused, whoever signed it.
func TestDocuments_ThatAreInvalidAreRefused(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	digest := string(fleet.SHA256(nil))
	stamp := `{"fleetId":"acme","version":1,"signedAt":1,"expires":2,"lines":{}}`
	list := `{"fleetId":"acme","version":1,"signedAt":1,"releases":[],"minSequence":{},"certificates":[]}`
	grant := `{"fleetId":"acme","machines":["web-01"],"digest":"` + digest + `","kind":"stale","signedAt":1,"expires":2}`
	for name, tc := range map[string]struct {
		text, old, new string
		want           fleet.Reason
	}{
		"timestamp":                    {stamp, "", "", ""},
		"timestamp, version 0":         {stamp, `"version":1`, `"version":0`, "malformed"},
		"timestamp, signed never":      {stamp, `"signedAt":1`, `"signedAt":0`, "malformed"},
		"timestamp, ends as it starts": {stamp, `"expires":2`, `"expires":1`, "malformed"},
		"timestamp, no digest":         {stamp, `"lines"`, `"revocations":"x","lines"`, "malformed"},
		"timestamp, no line":           {stamp, `"lines":{}`, `"lines":{"/":1}`, "malformed"},
		"timestamp, other fleet":       {stamp, `"acme"`, `"evil"`, "wrong-fleet"},
		"timestamp, critical":          {stamp, `{`, `{"crit":["x"],`, "critical-field"},
		"revocations":                  {list, "", "", ""},
		"revocations, version 0":       {list, `"version":1`, `"version":0`, "malformed"},
		"revocations, signed never":    {list, `"signedAt":1`, `"signedAt":0`, "malformed"},
		"revocations, empty serial":    {list, `"certificates":[]`, `"certificates":[""]`, "malformed"},
		"revocations, long serial":     {list, `"certificates":[]`, `"certificates":["` + strings.Repeat("0", 41) + `"]`, "malformed"},
		"revocations, no digest":       {list, `"releases":[]`, `"releases":["x"]`, "malformed"},
		"revocations, no line":         {list, `"minSequence":{}`, `"minSequence":{"/":1}`, "malformed"},
		"revocations, a serial":        {list, `"certificates":[]`, `"certificates":["00ff"]`, ""},
		"revocations, no serial":       {list, `"certificates":[]`, `"certificates":["FF"]`, "malformed"},
		"revocations, other fleet":     {list, `"acme"`, `"evil"`, "wrong-fleet"},
		"grant":                        {grant, "", "", ""},
		"grant, no kind":               {grant, `"stale"`, `"all"`, "malformed"},
		"grant, no digest":             {grant, digest, `*`, "malformed"},
		"grant, no machine id":         {grant, `"web-01"`, `"*"`, "malformed"},
		"grant, signed never":          {grant, `"signedAt":1`, `"signedAt":0`, "malformed"},
		"grant, ends as it starts":     {grant, `"expires":2`, `"expires":1`, "malformed"},
		"grant, other fleet":           {grant, `"acme"`, `"evil"`, "wrong-fleet"},
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte(strings.Replace(tc.text, tc.old, tc.new, 1))
			var err error
			var envelope []byte
			switch tc.text {
			case stamp:
				envelope = f.Sign(fleet.TypeTimestamp, text, "acme-timestamp")
				_, err = trust.ParseTimestamp(envelope, f.Root)
			case list:
				envelope = f.Sign(fleet.TypeRevocations, text, "acme-revoker")
				_, _, err = trust.ParseRevocations(envelope, f.Root)
			case grant:
				envelope = f.Sign(fleet.TypeGrant, text, "acme-operator")
				_, err = trust.ParseGrant(envelope, f.Root)
			}
			if trust.ReasonOf(err) != tc.want || (err == nil) != (tc.want == "") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if tc.want == fleet.ReasonWrongFleet {
				tc.want = "" // a draft's fleet is judged with its signatures
			}
			if _, err = trust.ParseDraft(envelope); trust.ReasonOf(err) != tc.want || (err == nil) != (tc.want == "") {
				t.Errorf("as a draft: %v, want %q", err, tc.want)
			}
		})
	}
}

func TestRefusal_IsShortAndHasACode(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	_, err := trust.ParseGrant(f.Sign(fleet.TypeGrant, []byte(`{"crit":["`+strings.Repeat("é", 5000)+`"]}`), "acme-operator"), f.Root)
	if trust.ReasonOf(err) != fleet.ReasonCriticalField || len(err.Error()) > 500 {
		t.Errorf("got %d bytes: %v", len(err.Error()), err)
	}
	if fleet.ErrorCode(err) != fleet.Refused {
		t.Errorf("code %s", fleet.ErrorCode(err))
	}
	if trust.ReasonOf(nil) != "" {
		t.Error("nil has a reason")
	}
}

// A17: a machine that does not know its floor may go on with what it runs. Its
// floor stays unknown until an operator's grant: the attacker chooses among the
// releases that have the system.
func TestRecord_RestoresTheFloorOfALostStateByAGrantOnly(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	entry := trusttest.Entry("web-01", "running")
	fifth, sixth := f.Release(f.Header(5), entry), f.Release(f.Header(6), trusttest.Entry("web-01", "new"))
	lost := f.State("web-01")
	lost.Floor, lost.Running = nil, entry.StorePath

	a, refusal := trust.Accept(lost, trusttest.Now, f.Bundle(fifth, "web-01"))
	if refusal != nil || a.Granted {
		t.Fatalf("granted %v, %v", a.Granted, refusal)
	}
	s := lost.Record(a, trusttest.Now)
	if s.Floor != nil {
		t.Errorf("floor %v", s.Floor)
	}
	s.Running = entry.StorePath
	if _, r := trust.Accept(s, trusttest.Now, f.Bundle(sixth, "web-01")); r == nil || r.Reason != fleet.ReasonFloorUnknown {
		t.Errorf("another release: %v", r)
	}
	if lost.Floor != nil || s.HighestSignedTime != a.Header.CreatedAt {
		t.Errorf("floor before %v, highest signed time %d", lost.Floor, s.HighestSignedTime)
	}

	lost, errs := lost.Learn(trusttest.Now, trust.Documents{Grants: [][]byte{f.Grant(fleet.Grant{Machines: []fleet.MachineID{"web-01"},
		Digest: sixth.Digest, Kind: fleet.GrantDowngrade, SignedAt: trusttest.Now, Expires: trusttest.Now + trusttest.Day})}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	b, refusal := trust.Accept(lost, trusttest.Now, f.Bundle(sixth, "web-01"))
	if refusal != nil || !b.Granted {
		t.Fatalf("granted %v, %v", b.Granted, refusal)
	}
	s = lost.Record(b, trusttest.Now).Activated(trusttest.Now)
	want := &trust.Floor{Lines: map[fleet.Line]trust.Mark{},
		Pending: &trust.Activation{Mark: b.Mark(), ActivatedAt: trusttest.Now, RevertWindowMs: 7 * trusttest.Day}}
	if diff := cmp.Diff(want, s.Floor); diff != "" {
		t.Errorf("floor (-want +got):\n%s", diff)
	}
}
