// SPDX-License-Identifier: MIT

package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// A control plane that was taken over can have the agent wait, but not end it, and
// not for longer than an hour: times that overflow ended the whole program.
func TestPoll_KeepsAskingWhateverTimesTheOrdersName(t *testing.T) {
	for _, ms := range []int64{1<<63 - 1, -1 << 63, 9223372036855, 400 * 24 * 3600 * 1000} {
		var last *Link
		asked := pollFor(t, 4*time.Hour, func(l *Link) { l.Agent.ControlPlane.LongPollSeconds, last = 0, l }, func(int, api.CheckIn) (api.Orders, error) {
			return api.Orders{PollAfterMs: ms, WaitMs: ms, Apply: &fleet.Order{Digest: "sha256:", Rollout: "../r1", Attempt: -1}}, nil
		})
		if len(asked) < 3 || len(asked) > 500 {
			t.Errorf("orders with %d ms: %d check-ins in 4 hours", ms, len(asked))
		}
		if o, given := last.Orders(); !given || o.Apply != nil {
			t.Errorf("orders are %+v", o)
		}
	}
}

// Orders that are valid come through whole: none of their fields is forgotten.
func TestBounded_KeepsEveryField(t *testing.T) {
	v := api.Orders{
		Etag: "a", Epoch: "1.2.", Prefetch: fleet.SHA256(nil), Grants: []fleet.Digest{fleet.SHA256(nil)},
		Apply:     &fleet.Order{Digest: fleet.SHA256(nil), Rollout: "r1", Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000},
		Revert:    &fleet.Order{Digest: fleet.SHA256(nil), Rollout: "r1", Attempt: 1},
		Documents: fleet.DocumentDigests{Root: fleet.SHA256(nil), Revocations: fleet.SHA256(nil), Timestamp: fleet.SHA256(nil)}, PollAfterMs: 30_000, WaitMs: 55_000,
	}
	for i := range reflect.TypeFor[api.Orders]().NumField() {
		if name := reflect.TypeFor[api.Orders]().Field(i).Name; name == "LeftOut" || name == "Reports" {
			continue // no orders: what could not be read, and what became of reports
		}
		if reflect.ValueOf(v).Field(i).IsZero() {
			t.Errorf("the example has no %s", reflect.TypeFor[api.Orders]().Field(i).Name)
		}
	}
	if o, left := bounded(v); cmp.Diff(v, o) != "" || len(left) > 0 {
		t.Errorf("left out %v (-was +is):\n%s", left, cmp.Diff(v, o))
	}
}

// FuzzOrders reads orders as an agent gets them: what it keeps names things that
// can exist, and bounds every wait.
func FuzzOrders(f *testing.F) {
	good, err := json.Marshal(api.Orders{
		Etag: "a", Epoch: "1.2.", Apply: &fleet.Order{Digest: fleet.SHA256(nil), Rollout: "r1", Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000},
		Documents: fleet.DocumentDigests{Root: fleet.SHA256(nil)}, Grants: []fleet.Digest{fleet.SHA256(nil)}, PollAfterMs: 30_000, WaitMs: 55_000,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"etag":"\u001b","apply":{"digest":"sha256:","attempt":-1},"pollAfterMs":9223372036854775807,"waitMs":-9223372036854775808}`))
	f.Add([]byte(`{"revert":{"minHealthyMs":9223372036854775807},"documents":{"root":"../root","timestamp":"x"},"prefetch":"y","order":"dance"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var v api.Orders
		if json.Unmarshal(body, &v) != nil {
			return
		}
		o, left := bounded(v)
		for _, d := range []fleet.Digest{o.Prefetch, o.Documents.Root, o.Documents.Revocations, o.Documents.Timestamp} {
			if d != "" && !d.Valid() {
				t.Fatalf("%q came through", d)
			}
		}
		for _, d := range o.Grants {
			if !d.Valid() || len(o.Grants) > trust.MaxGrants {
				t.Fatalf("grants %v came through", o.Grants)
			}
		}
		for _, order := range []*fleet.Order{o.Apply, o.Revert} {
			if order == nil {
				continue
			}
			if !order.Digest.Valid() || !order.Rollout.Valid() || order.Attempt < 1 || order.MinHealthyMs < 0 || 2*time.Duration(order.MinHealthyMs)*time.Millisecond < 0 {
				t.Fatalf("%+v came through", order)
			}
		}
		if d := time.Duration(o.PollAfterMs) * time.Millisecond; d < 0 || d > time.Hour || o.WaitMs < 0 || o.WaitMs > api.MaxWaitMs {
			t.Fatalf("%+v came through", o)
		}
		if again, more := bounded(o); cmp.Diff(o, again) != "" || len(more) > 0 || len(left) < len(v.LeftOut) {
			t.Fatalf("%+v became %+v", o, again)
		}
		if len(left) == 0 && (v.Apply == nil) != (o.Apply == nil) {
			t.Fatal("an order was left out in silence")
		}
	})
}

// FuzzCertificate gives a machine what a control plane may send as its certificate:
// it takes only one for its own key and name.
func FuzzCertificate(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for name, key := range map[string]*ecdsa.PrivateKey{"web-01": k, "db-01": k, "web-02": other} {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	evidence, stranger := fleet.EvidenceKeyOf(make([]byte, 32)), fleet.EvidenceKeyOf(append(make([]byte, 31), 1))
	for _, named := range []fleet.EvidenceKey{evidence, stranger} {
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web-01"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: named.URIs(),
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add([]byte{0x30, 0x80})
	i := &identity{cfg: config.Agent{MachineID: "web-01"}}
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := i.ours(api.Certificate{Certificate: der}, k, evidence)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Refused {
				t.Fatalf("%v has code %q", err, fleet.ErrorCode(err))
			}
			return
		}
		if !k.PublicKey.Equal(leaf.PublicKey) || leaf.Subject.CommonName != "web-01" {
			t.Fatalf("%s was taken", leaf.Subject)
		}
		if named, err := fleet.EvidenceKeyIn(leaf.URIs); err != nil || named != "" && named != evidence {
			t.Fatalf("a certificate with the evidence key %q was taken", named)
		}
	})
}
