// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"crypto"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// thief is what holds a machine's certificate and is no agent: plain HTTP.
func (w *world) thief(admin *api.Client, name fleet.MachineID) *http.Client {
	w.tb.Helper()
	der, key := w.certificate(admin, name)
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: w.caPool(), Time: w.now, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}
	w.tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// certificate enrols a machine.
func (w *world) certificate(admin *api.Client, name fleet.MachineID) ([]byte, crypto.Signer) {
	w.tb.Helper()
	key := newKey(w.tb)
	cert := must[api.Certificate](w.tb)(w.machine(nil, nil).Enroll(w.ctx(), api.EnrollRequest{Token: w.token(admin, name), CSR: csr(w.tb, name, key)}))
	return cert.Certificate, key
}

// send posts a body and returns status and reply.
func (w *world) send(c *http.Client, path string, body io.Reader) (int, []byte) {
	w.tb.Helper()
	req := must[*http.Request](w.tb)(http.NewRequestWithContext(w.ctx(), http.MethodPost, base(w.addrs.Agents)+path, body))
	res := must[*http.Response](w.tb)(c.Do(req))
	defer res.Body.Close()
	return res.StatusCode, must[[]byte](w.tb)(io.ReadAll(res.Body))
}

// A body with more reports than there may be is refused and says so; the
// machine's own reports go through as before.
func TestReports_RefuseTooManyAndLoseNothing(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	thief := w.thief(admin, "web-01")
	item := `{"machine":"web-01","id":"1","kind":"drift"}`
	status, reply := w.send(thief, api.PathReports, strings.NewReader(`{"reports":[`+strings.Repeat(item+",", 1000)+item+`]}`))
	var p api.Problem
	if err := json.Unmarshal(reply, &p); err != nil || status != http.StatusRequestEntityTooLarge || p.Code != fleet.TooLarge || !strings.Contains(p.Detail, "more than 1000 reports") {
		t.Errorf("status %d, %s", status, reply)
	}
	if status, reply = w.send(thief, api.PathReports, strings.NewReader(`{"reports":[`+item+`]}`)); status != http.StatusOK || !strings.Contains(string(reply), `"accepted":["1"]`) {
		t.Errorf("status %d, %s", status, reply)
	}
}

// A machine holds one check-in: a newer one has the older answered at once.
func TestCheckIn_ANewerOneEndsTheOlder(t *testing.T) {
	w := newWorld(t)
	m := w.enrolled(w.admin(), "web-01")
	for range 3 {
		older := w.holding(m, checkIn("web-01"))
		must[api.Orders](t)(m.CheckIn(t.Context(), checkIn("web-01")))
		select {
		case err := <-older:
			if err != nil {
				t.Errorf("the older check-in got %v, want its orders", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the older check-in is still held after 5 s")
		}
	}
	if n := w.metric("nixfleet_long_polls"); n != 0 {
		t.Errorf("%v check-ins are held, want none", n)
	}
}

// A machine sends one body of reports at a time: one that does not end does not
// keep its place.
func TestReports_ANewerOneEndsTheOlder(t *testing.T) {
	w := newWorld(t)
	thief := w.thief(w.admin(), "web-01")
	before := w.metricOf(`nixfleet_http_requests_total{listener="agents",operation="reports",status="503"}`)
	read, write := io.Pipe()
	defer write.Close()
	ended := make(chan string, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base(w.addrs.Agents)+api.PathReports, read)
		if err != nil {
			ended <- err.Error()
			return
		}
		res, err := thief.Do(req)
		if err != nil {
			ended <- err.Error()
			return
		}
		res.Body.Close()
		ended <- fmt.Sprintf("status %d, closes its connection: %t", res.StatusCode, res.Close)
	}()
	// Two writes: when the second has begun, the first was taken by the transport.
	for range 2 {
		if _, err := write.Write([]byte(`{"reports":[                                  `)); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the older call is ended", func() bool {
		status, reply := w.send(thief, api.PathReports, strings.NewReader(`{"reports":[]}`))
		if status != http.StatusOK {
			t.Fatalf("the newer call: status %d, %s", status, reply)
		}
		return w.metricOf(`nixfleet_http_requests_total{listener="agents",operation="reports",status="503"}`) > before
	})
	if got, want := <-ended, "status 503, closes its connection: true"; got != want {
		t.Errorf("the older call: %s, want %s", got, want)
	}
}

// Calls that were ended leave no connection behind on which later calls fail.
func TestAgents_GoOnAfterManyEndedEachOther(t *testing.T) {
	w := newWorld(t)
	thief := w.thief(w.admin(), "web-01")
	ask := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base(w.addrs.Agents)+api.PathRelease+string(fleet.SHA256(nil)), nil)
		if err != nil {
			return 0
		}
		res, err := thief.Do(req)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, res.Body) // for the connection to be used again
		res.Body.Close()
		return res.StatusCode
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				ask()
			}
		})
	}
	wg.Wait()
	w.advance(time.Hour) // for its budget
	for n := range 10 {
		if status := ask(); status != http.StatusNotFound {
			t.Errorf("call %d: status %d, want 404", n, status)
		}
	}
}

// A machine that asks for more than an agent does is told to wait (429), and
// loses nothing by it.
func TestAgents_OverBudgetAreToldToWait(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.enrolled(admin, "web-01")
	other := w.enrolled(admin, "web-02")
	reports := func(from, n int) []fleet.Report {
		var out []fleet.Report
		for i := range n {
			out = append(out, fleet.Report{ID: fmt.Sprint(from + i), Machine: "web-01", Kind: fleet.ReportDrift})
		}
		return out
	}
	for i := range 2 {
		must[api.ReportsReply](t)(m.Reports(t.Context(), reports(500*i, 500)))
	}
	_, err := m.Reports(t.Context(), reports(1000, 10))
	after, told := api.RetryAfter(err)
	if fleet.ErrorCode(err) != fleet.RateLimited || !told || after < 45*time.Second || after > 55*time.Second {
		t.Errorf("over budget: %v, told to wait %s; want 50 s", err, after)
	}
	must[api.Orders](t)(m.CheckIn(t.Context(), checkIn("web-01"))) // that is another budget
	must[api.ReportsReply](t)(other.Reports(t.Context(), []fleet.Report{{ID: "1", Machine: "web-02", Kind: fleet.ReportDrift}}))
	w.advance(after)
	if reply := must[api.ReportsReply](t)(m.Reports(t.Context(), reports(1000, 10))); len(reply.Accepted) != 10 {
		t.Errorf("after the wait: %+v", reply)
	}
}

// E08: guessing tokens gets slow, and a good token is never refused for it.
func TestEnroll_SlowsDownWhoFailsTooOften(t *testing.T) {
	w := newWorld(t)
	tok := w.token(w.admin(), "web-01")
	stranger := w.machine(nil, nil)
	key := newKey(t)
	request := csr(t, "web-01", key)
	slow := false
	for n := 0; n < 60 && !slow; n++ {
		begin := time.Now()
		if _, err := stranger.Enroll(t.Context(), api.EnrollRequest{Token: "nft_web-01_0123456789abcdef_" + api.CAHash(nil), CSR: request}); err == nil {
			t.Fatal("a made-up token was good")
		}
		slow = time.Since(begin) > 450*time.Millisecond
	}
	if !slow {
		t.Error("60 failures were answered at once")
	}
	must[api.Certificate](t)(stranger.Enroll(t.Context(), api.EnrollRequest{Token: tok, CSR: request}))
}

// E09: an event stream ends with its key, and its reader is told why.
func TestEvents_EndWithTheirKey(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	for name, end := range map[string]func(id string){
		"revoked": func(id string) { must[fleet.Key](t)(admin.RevokeKey(t.Context(), id)) },
		"rotated": func(id string) { must[api.NewKey](t)(admin.RotateKey(t.Context(), id)) },
	} {
		reader, key := w.as(admin, fleet.RoleReadonly)
		streaming, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			begun := false
			for _, err := range reader.Watch(t.Context(), 0, fleet.EventFilter{}) {
				if err != nil {
					ended <- err
					return
				}
				if !begun {
					begun = true
					close(streaming)
				}
			}
			ended <- nil
		}()
		<-streaming
		end(key.ID)
		select {
		case err := <-ended:
			wantCode(t, name, err, fleet.Unauthenticated)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the stream goes on after 10 s", name)
		}
	}
}

// metricOf is the value of a metric with its labels, 0 if there is none.
func (w *world) metricOf(series string) (value float64) {
	w.tb.Helper()
	_, body := w.get("/metrics")
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			must[int](w.tb)(fmt.Sscan(v, &value))
		}
	}
	return value
}
