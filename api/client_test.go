// SPDX-License-Identifier: MIT

package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// serve runs h with TLS and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) (*api.Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := api.NewClient(api.ClientConfig{BaseURL: s.URL, Key: "nfk_secret", TLS: trusting(s)})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func trusting(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}

func problem(w http.ResponseWriter, err error) {
	p := api.NewProblem(err)
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func TestClient_TurnsAProblemBackIntoItsError(t *testing.T) {
	want := fleet.Errorf(fleet.Conflict, "rollout r1 holds web-01").WithHint("wait for it, or give --supersede")
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, want) })
	_, err := c.CreateRollout(t.Context(), api.RolloutRequest{})
	if fleet.ErrorCode(err) != want.Code || err.Error() != want.Message || fleet.ErrorHint(err) != want.Hint {
		t.Errorf("got %v (%s, %q), want %v", err, fleet.ErrorCode(err), fleet.ErrorHint(err), want)
	}
}

func TestClient_GivesACodeToAReplyThatIsNoProblem(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<html>proxy</html>")
	})
	if _, err := c.Whoami(t.Context()); fleet.ErrorCode(err) != fleet.Forbidden {
		t.Errorf("got %v, want a forbidden error", err)
	}
}

// E09: a key is never sent on to another host.
func TestClient_FollowsNoRedirect(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer other.Close()
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := c.Whoami(t.Context())
	if fleet.ErrorCode(err) != fleet.Refused || leaked.Load() {
		t.Errorf("got %v, reached the other host: %t; want refused, false", err, leaked.Load())
	}
}

// E09: nor over plain HTTP.
func TestNewClient_RefusesAnAddressThatIsNotHTTPS(t *testing.T) {
	for _, base := range []string{"http://fleet.example.org", "fleet.example.org:8443", "https://", "https://u:p@h", "https://h/?a=b", ""} {
		if _, err := api.NewClient(api.ClientConfig{BaseURL: base}); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("NewClient(%q): got %v, want an invalid error", base, err)
		}
	}
}

func TestClient_RefusesAServerOfAnotherCA(t *testing.T) {
	_, s := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	c, err := api.NewClient(api.ClientConfig{BaseURL: s.URL, Key: "nfk_secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Whoami(t.Context()); fleet.ErrorCode(err) != fleet.Refused || fleet.ErrorHint(err) == "" {
		t.Errorf("got %v, want a refused error with a hint", err)
	}
}

func TestClient_RepeatsOnlyWhatIsSafeToRepeat(t *testing.T) {
	var calls atomic.Int32
	var names sync.Map
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		names.Store(r.Header.Get(api.IdempotencyKey), true)
		if calls.Add(1) < 3 {
			w.Header().Set("Retry-After", "0")
			problem(w, fleet.Errorf(fleet.Unavailable, "busy"))
			return
		}
		fmt.Fprint(w, "{}")
	})
	if _, err := c.Whoami(t.Context()); err != nil || calls.Load() != 3 {
		t.Errorf("reading: got %v after %d calls, want success at the third", err, calls.Load())
	}
	calls.Store(0)
	if _, err := c.RevokeKey(t.Context(), "a"); fleet.ErrorCode(err) != fleet.Unavailable || calls.Load() != 1 {
		t.Errorf("deleting: got %v after %d calls, want unavailable after one", err, calls.Load())
	}
	for range 2 {
		calls.Store(0)
		names.Clear()
		if _, err := c.CreateKey(t.Context(), api.KeyRequest{}); err != nil || calls.Load() != 3 {
			t.Errorf("creating: got %v after %d calls, want success at the third", err, calls.Load())
		}
		seen := map[any]bool{}
		names.Range(func(name, _ any) bool { seen[name] = true; return true })
		if len(seen) != 1 || seen[""] {
			t.Errorf("three tries of one call have the names %v, want one", seen)
		}
	}
}

// A call whose answer is lost is tried for longer than one that never arrived, and
// its error says that it may have been carried out.
func TestClient_TriesLongerAfterALostAnswer(t *testing.T) {
	var calls atomic.Int32
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("Retry-After", "0")
		problem(w, fleet.Errorf(fleet.Unavailable, "busy"))
	})
	_, err := c.CreateKey(t.Context(), api.KeyRequest{})
	if fleet.ErrorCode(err) != fleet.Unavailable || calls.Load() != 8 || !strings.Contains(fleet.ErrorHint(err), "may have been carried out") {
		t.Errorf("got %v (%s) after %d calls, want unavailable after eight", err, fleet.ErrorHint(err), calls.Load())
	}
}

// A16: what the control plane asks for reaches the agent's schedule.
func TestAgentClient_TellsWhenToTryAgain(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		problem(w, fleet.Errorf(fleet.Unavailable, "too many at once"))
	}))
	defer s.Close()
	a, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: s.URL, TLS: trusting(s)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.CheckIn(t.Context(), api.CheckIn{})
	if d, ok := api.RetryAfter(err); !ok || d != 7*time.Second {
		t.Errorf("RetryAfter(%v) = %v, %t; want 7s, true", err, d, ok)
	}
}

// E06: a control plane cannot fill an agent's memory.
func TestAgentClient_RefusesAReplyBeyondItsLimit(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("protocol %s, want HTTP/1.1", r.Proto)
		}
		_, _ = w.Write(bytes.Repeat([]byte(" "), 3<<20))
	}))
	defer s.Close()
	a, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: s.URL, TLS: trusting(s)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Release(t.Context(), fleet.SHA256(nil)); fleet.ErrorCode(err) != fleet.TooLarge {
		t.Errorf("got %v, want a too-large error", err)
	}
}

// O05: a lost connection while watching is made again, and goes on after the
// last event.
func TestWatch_ResumesAfterALostConnection(t *testing.T) {
	var conns atomic.Int32
	var resumed atomic.Value
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		n := conns.Add(1)
		if n == 1 {
			fmt.Fprint(w, "id: 4\ndata: {\"id\":4}\n\n: heartbeat\n\nid: 5\ndata: {\"id\":5,\ndata: \"at\":9}\n\n")
			return
		}
		resumed.Store(r.URL.Query().Get("after") + " " + r.URL.Query().Get("rollout"))
		fmt.Fprint(w, "id: 6\ndata: {\"id\":6}\n\n")
	})
	var got []int64
	for e, err := range c.Watch(t.Context(), 0, fleet.EventFilter{Rollout: "r1"}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID); e.ID == 6 {
			break
		}
	}
	if fmt.Sprint(got) != "[4 5 6]" || resumed.Load() != "5 r1" {
		t.Errorf("got events %v, resumed with %q; want [4 5 6] and \"5 r1\"", got, resumed.Load())
	}
}

// E12: events that the control plane no longer has are no reason to stop.
func TestWatch_BeginsAnewWhereTheLogEnds(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("after") != "" {
			problem(w, fleet.Errorf(fleet.NotFound, "event 900 is not in the log"))
			return
		}
		fmt.Fprint(w, "id: 3\ndata: {\"id\":3}\n\n")
	})
	for e, err := range c.Watch(t.Context(), 900, fleet.EventFilter{}) {
		if err != nil || e.ID != 3 {
			t.Errorf("got event %d, %v; want 3", e.ID, err)
		}
		break
	}
}

func TestWatch_EndsWithAnErrorThatATryWillNotMend(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		problem(w, fleet.Errorf(fleet.Unauthenticated, "the key is revoked"))
	})
	n := 0
	for _, err := range c.Watch(t.Context(), 0, fleet.EventFilter{}) {
		if n++; fleet.ErrorCode(err) != fleet.Unauthenticated {
			t.Errorf("got %v, want an unauthenticated error", err)
		}
	}
	if n != 1 {
		t.Errorf("got %d rounds, want 1", n)
	}
}

func TestClient_SendsWhatAFilterSelects(t *testing.T) {
	var got string
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.RawQuery
		fmt.Fprint(w, "{}")
	})
	for want, list := range map[string]func() error{
		"": func() error {
			_, err := c.Assignments(t.Context(), "r1", fleet.AssignmentFilter{Batch: fleet.AllBatches}, fleet.PageRequest{})
			return err
		},
		"batch=0&cursor=b&limit=7&state=held": func() error {
			_, err := c.Assignments(t.Context(), "r1", fleet.AssignmentFilter{State: fleet.AssignHeld}, fleet.PageRequest{Cursor: "b", Limit: 7})
			return err
		},
		"drift=true&lifecycle=active": func() error {
			_, err := c.Machines(t.Context(), fleet.MachineFilter{Lifecycle: fleet.Active, Drift: true}, fleet.PageRequest{})
			return err
		},
	} {
		if err := list(); err != nil || got != want {
			t.Errorf("got query %q, %v; want %q", got, err, want)
		}
	}
}

func TestAll_ReadsEveryPage(t *testing.T) {
	pages := map[string]api.Page[int]{"": {Items: []int{1, 2}, Next: "b"}, "b": {Items: []int{3}}}
	var got []int
	for v, err := range api.All(t.Context(), func(_ context.Context, p fleet.PageRequest) (api.Page[int], error) { return pages[p.Cursor], nil }) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	if fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("got %v, want [1 2 3]", got)
	}
}

func TestParseToken(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	tok, err := api.ParseToken("nft_web-01_0123456789abcdef_" + hash + "\n")
	if err != nil || tok.Machine != "web-01" || tok.CAHash != hash || tok.String() != "nft_web-01_0123456789abcdef_"+hash {
		t.Errorf("got %+v, %v", tok, err)
	}
	for _, bad := range []string{"", "nfk_x", "nft_web-01_short_" + hash, "nft_Web_0123456789abcdef_" + hash, "nft_web-01_0123456789abcdef_" + hash[:63]} {
		if _, err := api.ParseToken(bad); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("ParseToken(%q): got %v, want an invalid error", bad, err)
		}
	}
}

// What the operator's side says rides in the same line; the control plane never gets it.
func TestParseToken_ReadsTheFloorBesideTheSecret(t *testing.T) {
	bare := "nft_web-01_0123456789abcdef_" + strings.Repeat("ab", 32)
	for name, f := range map[string]api.TokenFloor{
		"a release":      {Line: "main", Release: []byte("_.\xff envelope"), Expires: 7},
		"no release yet": {Line: "staging", Expires: 7},
	} {
		t.Run(name, func(t *testing.T) {
			whole := api.TokenParts{Machine: "web-01", Secret: "0123456789abcdef", CAHash: strings.Repeat("ab", 32), Floor: &f}.String()
			if strings.ContainsAny(whole, " \n") || !strings.HasPrefix(whole, bare+".1.") {
				t.Errorf("the token is %q", whole)
			}
			tok, err := api.ParseToken(whole + "\n")
			if err != nil || tok.Floor == nil || !reflect.DeepEqual(*tok.Floor, f) || tok.String() != whole || tok.Bare() != bare {
				t.Errorf("got %+v, %v", tok, err)
			}
			if _, err := api.ParseToken(whole[:len(whole)-3]); fleet.ErrorCode(err) != fleet.Invalid {
				t.Errorf("cut: got %v, want an invalid error", err)
			}
		})
	}
	for _, none := range []string{bare, bare + ".2.later"} {
		if tok, err := api.ParseToken(none); err != nil || tok.Floor != nil || tok.Bare() != bare {
			t.Errorf("%q: got %+v, %v, want no floor", none, tok, err)
		}
	}
	if _, err := api.ParseToken(bare + ".1.e30"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("a floor of no line: got %v, want an invalid error", err)
	}
}

// E07: enrolment trusts the CA that the token names, under the right name only.
func TestEnrollTLS_TrustsOnlyTheTokensCA(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	s.StartTLS() // its certificate is its own CA
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	good := api.CAHash(s.Certificate().Raw)
	for _, tt := range []struct {
		name, hash, host string
		ok               bool
	}{
		{"right CA", good, u.Hostname(), true},
		{"other CA", strings.Repeat("0", 64), u.Hostname(), false},
		{"other name", good, "other.example.net", false},
	} {
		a, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: s.URL, TLS: api.TokenParts{CAHash: tt.hash}.EnrollTLS(tt.host)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Enroll(t.Context(), api.EnrollRequest{}); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want success %t", tt.name, err, tt.ok)
		}
	}
}
