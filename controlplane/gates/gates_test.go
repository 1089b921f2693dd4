// SPDX-License-Identifier: AGPL-3.0-only

package gates

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

var probe = rollout.Probe{Rollout: "r1", Release: fleet.SHA256(nil), Batch: 1, Gate: "gate", Asked: 3, Machines: []fleet.MachineID{"web-01", "web-02"}}

// ask asks a single gate.
func ask(t *testing.T, g config.Gate) rollout.GateResult {
	t.Helper()
	return New(Options{Gates: map[string]config.Gate{"gate": g}}).Ask(t.Context(), probe)
}

func number(v float64) *float64 { return &v }

// prometheus starts a Prometheus that scrapes one page of metrics, and waits until
// it has them.
func prometheus(t *testing.T, metrics string) string {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed: it is in the Debian package of that name, whose service no test should start; .ci/run unpacks it")
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, metrics) }))
	t.Cleanup(page.Close)
	dir := t.TempDir()
	conf := fmt.Sprintf("global:\n  scrape_interval: 200ms\nscrape_configs:\n- job_name: fleet\n  honor_labels: true\n  static_configs:\n  - targets: [%q]\n", page.Listener.Addr())
	if err = os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c := exec.CommandContext(t.Context(), program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=error")
	c.Stdout, c.Stderr = t.Output(), t.Output()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	url := "http://" + addr
	begin, tick := time.Now(), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for ask(t, config.Gate{Kind: config.GatePrometheus, URL: url, Query: "errors", Min: number(0)}).Answer != fleet.GatePass {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("prometheus has no data after 30 s")
		}
		<-tick.C
	}
	return url
}

// H05: a value within the limits passes, one beyond them fails; no data, of any
// machine, never passes.
func TestAsk_AsksARealPrometheus(t *testing.T) {
	url := prometheus(t, "errors{instance=\"web-01\"} 0.01\nerrors{instance=\"web-02\"} 0.04\nerrors{instance=\"db-01\"} 9\nslow{instance=\"web-01\"} 1\nnothing NaN\n")
	for _, tc := range []struct {
		query    string
		min, max *float64
		label    string
		want     fleet.GateAnswer
		message  string
	}{
		{`errors{instance=~"$machines"}`, nil, number(0.05), "instance", fleet.GatePass, "2 values"},
		{`errors{instance=~"$machines"}`, nil, number(0.03), "instance", fleet.GateFail, "0.04 of web-02 is above 0.03"},
		{`errors{instance=~"$machines"}`, number(0.02), nil, "", fleet.GateFail, "0.01 is below 0.02"},
		{`slow{instance=~"$machines"}`, nil, number(5), "instance", fleet.GateInconclusive, "no data of web-02"},
		{`slow{instance=~"$machines"}`, nil, number(5), "", fleet.GatePass, "1 values"},
		{`errors{instance="none"}`, nil, number(5), "", fleet.GateInconclusive, "no data"},
		{`errors < 0`, nil, number(5), "", fleet.GateInconclusive, "no data"},
		{`nothing`, nil, number(5), "", fleet.GateInconclusive, "no number"},
		{`scalar(sum(errors{instance=~"$machines"}))`, nil, number(0.05 + 1e-9), "", fleet.GatePass, "1 values"},
		{`errors[1m]`, nil, number(5), "", fleet.GateInconclusive, "neither a vector nor a scalar"},
		{`errors{`, nil, number(5), "", fleet.GateInconclusive, "status 400"},
	} {
		r := ask(t, config.Gate{Kind: config.GatePrometheus, URL: url, Query: tc.query, Min: tc.min, Max: tc.max, MachineLabel: tc.label})
		if r.Answer != tc.want || !strings.Contains(r.Message, tc.message) || r.Batch != 1 || r.Asked != 3 || r.Gate != "gate" {
			t.Errorf("%s: %+v, want %s with %q", tc.query, r, tc.want, tc.message)
		}
	}
}

// hook serves a webhook that answers what reply says. It checks what it is asked
// as its documentation says.
func hook(t *testing.T, secret string, reply func(q map[string]any) (int, string)) config.Gate {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "%s.%s", r.Header.Get("NixFleet-Timestamp"), body)
		if got, want := r.Header.Get("NixFleet-Signature"), "v1="+hex.EncodeToString(mac.Sum(nil)); got != want {
			t.Errorf("signature %s, want %s", got, want)
		}
		var q map[string]any
		if err := json.Unmarshal(body, &q); err != nil {
			t.Error(err)
		}
		status, text := reply(q)
		if status/100 == 3 {
			w.Header().Set("Location", text)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "secret")
	for file, text := range map[string][]byte{ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), key: []byte(secret + "\n")} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config.Gate{Kind: config.GateWebhook, URL: s.URL, CAFile: ca, SecretFile: key}
}

const secret = "0123456789abcdef"

func TestAsk_SignsWhatItAsksAWebhook(t *testing.T) {
	g := hook(t, secret, func(q map[string]any) (int, string) {
		if q["rollout"] != "r1" || q["batch"] != 2.0 || len(q["machines"].([]any)) != 2 || q["release"] != string(probe.Release) {
			t.Errorf("asked %v", q)
		}
		return 200, fmt.Sprintf(`{"id": %q, "answer": "fail", "message": "change window\u001b[2J closed"}`, q["id"])
	})
	if r := ask(t, g); r.Answer != fleet.GateFail || r.Message != "change window[2J closed" {
		t.Errorf("answer %+v", r)
	}
}

// Whatever else a webhook does is inconclusive: it never passes by an error, by an
// old answer, or by what somebody else said that it leads to.
func TestAsk_BelievesOnlyAnAnswerToItsQuestion(t *testing.T) {
	passing := hook(t, secret, func(q map[string]any) (int, string) { return 200, fmt.Sprintf(`{"id": %q, "answer": "pass"}`, q["id"]) })
	if r := ask(t, passing); r.Answer != fleet.GatePass {
		t.Fatalf("answer %+v", r)
	}
	for name, reply := range map[string]func(q map[string]any) (int, string){
		"an older answer": func(map[string]any) (int, string) { return 200, `{"id": "r1/2/gate/2", "answer": "pass"}` },
		"no id":           func(map[string]any) (int, string) { return 200, `{"answer": "pass"}` },
		"an unknown answer": func(q map[string]any) (int, string) {
			return 200, fmt.Sprintf(`{"id": %q, "answer": "passed"}`, q["id"])
		},
		"an error":   func(q map[string]any) (int, string) { return 500, fmt.Sprintf(`{"id": %q, "answer": "pass"}`, q["id"]) },
		"a redirect": func(map[string]any) (int, string) { return 307, passing.URL },
		"no JSON":    func(map[string]any) (int, string) { return 200, `pass` },
		"too much":   func(map[string]any) (int, string) { return 200, strings.Repeat(" ", maxAnswer+1) },
	} {
		if r := ask(t, hook(t, secret, reply)); r.Answer != fleet.GateInconclusive || r.Message == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, change := range map[string]func(*config.Gate){
		"a short secret":   func(g *config.Gate) { g.SecretFile = g.CAFile + ".none" },
		"another CA":       func(g *config.Gate) { g.CAFile = "" },
		"nobody there":     func(g *config.Gate) { g.URL = "https://127.0.0.1:1" },
		"compliance":       func(g *config.Gate) { *g = config.Gate{Kind: config.GateCompliance} },
		"no longer there":  func(g *config.Gate) { *g = config.Gate{} },
		"nothing answered": func(g *config.Gate) { g.TimeoutSeconds, g.URL = 0.05, silent(t) },
	} {
		g := passing
		change(&g)
		if r := ask(t, g); r.Answer != fleet.GateInconclusive || r.Message == "" || strings.Contains(r.Message, "127.0.0.1") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// silent is the address of a listener that says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return "https://" + l.Addr().String()
}

// The compliance of issue I is a function here.
func TestAsk_AsksForCompliance(t *testing.T) {
	s := New(Options{Gates: map[string]config.Gate{"gate": {Kind: config.GateCompliance}}, Compliance: func(_ context.Context, m []fleet.MachineID) (fleet.GateAnswer, string) {
		return fleet.GateFail, fmt.Sprintf("%d machines", len(m))
	}})
	if r := s.Ask(t.Context(), probe); r.Answer != fleet.GateFail || r.Message != "2 machines" {
		t.Errorf("answer %+v", r)
	}
	if err := s.Check([]fleet.GateName{"gate"}); err != nil {
		t.Error(err)
	}
	if err := s.Check([]fleet.GateName{"gate", "other"}); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("a gate that there is not: %v", err)
	}
}

// FuzzAnswers reads what gates answer: only an answer to the question counts.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"id":"q","answer":"pass","message":"m"}`, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"i":"web-01"},"value":[1,"0.5"]}]}}`,
		`{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}`, `{"status":"success","warnings":["partial"],"data":{"resultType":"vector","result":[]}}`,
	} {
		f.Add([]byte(s))
	}
	g := config.Gate{Min: number(0), Max: number(1), MachineLabel: "i"}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, _, err := decodeVerdict(b, "q"); err == nil && a != fleet.GatePass && a != fleet.GateFail && a != fleet.GateInconclusive {
			t.Fatalf("answer %q", a)
		}
		samples, why, err := decodeSamples(b)
		if err != nil || why != "" {
			return
		}
		if a, _ := judge(g, []fleet.MachineID{"web-01"}, samples); a == fleet.GatePass && len(samples) == 0 {
			t.Fatal("no data has passed")
		}
	})
}
