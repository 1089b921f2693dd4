// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// E07: a machine cannot ask for a certificate in another one's name, not even with
// the key that it has, whose certificate it could get again.
func TestRenew_IsForOnesOwnNameAlone(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)}))
	m := w.machine(cert.Certificate, key)
	again := must[api.Certificate](t)(m.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", key)}))
	got, err := m.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-02", key)})
	wantCode(t, "another machine's name", err, fleet.Forbidden)
	if got.Certificate != nil || again.Certificate == nil {
		t.Errorf("got a certificate of %s", got.Machine)
	}
}

// A16: the check-ins that a stop ends are told different times, so that a fleet is
// not online again all at once. Of 16 that are told the same, one in 14 million runs
// would have drawn it.
func TestStop_SpreadsTheCheckInsThatItEnds(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	var ends []<-chan error
	for _, name := range []fleet.MachineID{
		"a-01", "a-02", "a-03", "a-04", "a-05", "a-06", "a-07", "a-08", "b-01", "b-02", "b-03", "b-04", "b-05", "b-06", "b-07", "b-08",
	} {
		ends = append(ends, w.holding(w.enrolled(admin, name), checkIn(name)))
	}
	w.stop()
	asked := map[time.Duration]int{}
	for _, end := range ends {
		err := <-end
		after, said := api.RetryAfter(err)
		if !said {
			t.Errorf("told no time: %v", err)
		}
		asked[after]++
	}
	if len(asked) < 2 {
		t.Errorf("all ask again at the same time: %v", asked)
	}
}

// A16: so are those whose connections end with them.
func TestStop_SpreadsTheCheckInsOfConnectionsThatEnd(t *testing.T) {
	const machines = 16
	w := newWorld(t)
	admin := w.admin()
	told := make(chan string, machines)
	for i := range machines {
		id := fleet.MachineID(fmt.Sprintf("m-%02d", i))
		thief, ci := w.thief(admin, id), checkIn(id)
		ask := func() (*http.Response, error) {
			req := must[*http.Request](t)(http.NewRequestWithContext(w.ctx(), http.MethodPost, base(w.addrs.Agents)+api.PathCheckIn, bytes.NewReader(must[[]byte](t)(json.Marshal(ci)))))
			req.Close = true
			return thief.Do(req)
		}
		res := must[*http.Response](t)(ask())
		var o api.Orders
		if err := json.NewDecoder(res.Body).Decode(&o); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		ci.Have, ci.WaitMs = o.Etag, 60_000
		go func() {
			after := ""
			if res, err := ask(); err == nil {
				after = res.Header.Get("Retry-After")
				_ = res.Body.Close()
			}
			told <- after
		}()
	}
	w.eventually("all are held", func() bool { return w.metric("nixfleet_long_polls") == machines })
	w.stop()
	asked := map[string]int{}
	for range machines {
		asked[<-told]++
	}
	if len(asked) < 2 || asked[""] > 0 {
		t.Errorf("told to ask again after: %v", asked)
	}
}

// What a fleet does not have is not found, and what it cannot have is refused: an
// answer without an error would be taken for a document, or a freeze.
func TestOperators_HearWhatIsNotThere(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	none := func(_ any, err error) error { return err }
	for _, c := range []struct {
		what string
		got  error
		want fleet.Code
	}{
		{"revocations", none(admin.Revocations(t.Context())), fleet.NotFound},
		{"a timestamp", none(admin.Timestamp(t.Context())), fleet.NotFound},
		{"a grant that is none", none(admin.PutGrant(t.Context(), []byte("{}"))), fleet.Conflict},
		{"a freeze", none(admin.Freeze(t.Context())), fleet.NotFound},
		{"a freeze without a reason", none(admin.SetFreeze(t.Context(), api.FreezeRequest{})), fleet.Invalid},
		{"the end of a freeze", none(admin.EndFreeze(t.Context())), fleet.NotFound},
	} {
		wantCode(t, c.what, c.got, c.want)
	}
}

// A control plane that is not the CA of its machines makes no tokens: they could not
// be exchanged.
func TestCreateToken_OnlyWhereCertificatesAreIssued(t *testing.T) {
	ca := must[pki.Authority](t)(pki.NewAuthority("our own CA", time.Now()))
	w := newWorldWith(t, config.TLS{ClientCAFile: caFile(t, ca)})
	admin := w.admin()
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	tok, err := admin.CreateToken(t.Context(), "web-01", api.TokenRequest{})
	wantCode(t, "a token", err, fleet.Conflict)
	if tok.Token != "" {
		t.Error("a token was made")
	}
}

// A cursor that is none gets no empty page: its reader would take the list to be
// at its end.
func TestLists_RefuseACursorThatIsNone(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	must[api.Orders](t)(w.enrolled(admin, "web-01").CheckIn(t.Context(), checkIn("web-01")))
	release := w.release(admin, 1, "", "web-01")
	id := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: release.Digest}})).ID
	names := strings.NewReplacer("/machines/{id}", "/machines/web-01", "/rollouts/{id}", "/rollouts/"+string(id))
	tried := 0
	for _, op := range api.Operations {
		switch op.ID {
		case "listKeys", "listReleases", "listLines", "listMachines", "machineReports", "listRollouts", "listAssignments", "listAudit":
		default:
			continue
		}
		tried++
		for cursor, want := range map[string]fleet.Code{"": "", "no%20cursor": fleet.Invalid} {
			_, reply := w.raw(op.Method, names.Replace(op.Path)+"?cursor="+cursor, w.secretOfAdmin, "")
			var p api.Problem
			if err := json.Unmarshal(reply, &p); err != nil || p.Code != want {
				t.Errorf("%s at %q: %s, want code %q", op.ID, cursor, reply, want)
			}
		}
	}
	if tried != 8 {
		t.Errorf("tried %d lists", tried)
	}
}

// E12: a control plane that cannot keep that its database is an old copy answers
// nobody who proves it, not even from memory.
func TestOperators_GetNothingFromACopyThatCannotBeMarked(t *testing.T) {
	w := newWorld(t)
	w.admin()
	res, _ := w.raw(http.MethodGet, "/api/v1/keys/self", w.secretOfAdmin, "")
	proof := res.Header.Get(api.EpochHeader)
	w.wipe()
	must[fleet.Machine](t)(w.admin().RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	if err := w.plane.Close(); err != nil { // it writes nothing any more
		t.Fatal(err)
	}
	for echo, want := range map[string]int{"": http.StatusOK, proof: http.StatusServiceUnavailable} {
		if res, body := w.raw(http.MethodGet, "/api/v1/machines/web-01", w.secretOfAdmin, "", api.EpochHeader, echo); res.StatusCode != want {
			t.Errorf("with the echo %q: status %d, %s; want %d", echo, res.StatusCode, body, want)
		}
	}
}

// A call under a name that cannot be kept is not carried out, not even one that
// needs no key.
func TestOperators_RefuseANameThatCannotBeKept(t *testing.T) {
	w := newWorld(t)
	body := string(must[[]byte](t)(json.Marshal(api.BootstrapRequest{Secret: bootstrapSecret, Owner: "root"})))
	res, reply := w.raw(http.MethodPost, "/api/v1/keys/bootstrap", "", body, "Content-Type", "application/json", api.IdempotencyKey, "two words")
	if res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("status %d, %s", res.StatusCode, reply)
	}
	w.admin() // the secret is still good
}

// E07: a machine that is shut out does not get through its handshake: nothing that
// it sends is read.
func TestHandshake_IsRefusedToAMachineThatIsShutOut(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	der, key := w.certificate(admin, "web-01")
	ask := func() error {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
		defer tr.CloseIdleConnections()
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, base(w.addrs.Agents)+api.PathRoot+"1", nil))
		res, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	must[fleet.Machine](t)(admin.SetLifecycle(t.Context(), "web-01", fleet.Decommissioned))
	if err := ask(); err == nil {
		t.Error("it was answered")
	}
}
