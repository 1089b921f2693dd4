// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/internal/config"
)

// selector is a metric that an expression names, and what it asks of its labels.
type selector struct {
	metric   string
	matchers map[string]string // label: = or =~ and the value; "" for grouping
}

var (
	tokens   = regexp.MustCompile(`^(?:\s+|[a-zA-Z_:][a-zA-Z0-9_:]*|"(?:[^"\\]|\\.)*"|[0-9.]+[a-z]*|=~|!~|!=|==|<=|>=|[-+*/%^<>=(){}\[\],])`)
	grouping = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	words    = []string{"and", "or", "unless", "bool", "offset"}
	sums     = []string{"sum", "count", "avg", "min", "max", "topk", "quantile"}
)

// selectors reads an expression. What it does not understand is an error: nothing of a
// rule is left unchecked.
func selectors(expr string) ([]selector, error) {
	var all []string
	for rest := expr; rest != ""; {
		t := tokens.FindString(rest)
		if t == "" {
			return nil, fmt.Errorf("cannot read %.20q of %q", rest, expr)
		}
		if rest = rest[len(t):]; strings.TrimSpace(t) != "" {
			all = append(all, t)
		}
	}
	all = append(all, "end", "end", "end")
	var out []selector
	var grouped []string
	for i := 0; i < len(all)-3; i++ {
		t, next := all[i], all[i+1]
		switch {
		case !regexp.MustCompile(`^[a-zA-Z_:]`).MatchString(t) || slices.Contains(words, t) || slices.Contains(sums, t):
		case slices.Contains(grouping, t):
			for i += 2; i < len(all) && all[i] != ")"; i++ {
				if all[i] != "," {
					grouped = append(grouped, all[i])
				}
			}
		case next == "(": // a function
		default:
			s := selector{metric: t, matchers: map[string]string{}}
			if next == "{" {
				for i += 2; i+2 < len(all) && all[i] != "}"; i++ {
					if all[i] == "," {
						continue
					}
					s.matchers[all[i]] = all[i+1] + strings.Trim(all[i+2], `"`)
					i += 2
				}
			}
			out = append(out, s)
		}
	}
	for i := range out {
		for _, label := range grouped {
			if _, asked := out[i].matchers[label]; !asked && label != "le" {
				out[i].matchers[label] = ""
			}
		}
	}
	return out, nil
}

// elsewhere are metrics that other programs have: Prometheus' own, those of the node
// exporter, and what the backup scope writes for it.
var elsewhere = regexp.MustCompile(`^(ALERTS|node_(filesystem_(avail|size)_bytes|systemd_unit_state|timex_(sync_status|offset_seconds)|cpu_seconds_total|memory_Mem(Available|Total)_bytes)|nixfleet_backup_last_event_timestamp_seconds)$`)

// missing says what of an expression's metrics is not in a Prometheus that has scraped
// a control plane.
func (p *prometheus) missing(expr string) error {
	found, err := selectors(expr)
	if err != nil {
		return err
	}
	if err = p.get("query", url.Values{"query": {expr}}, &struct{}{}); err != nil {
		return err
	}
	for _, s := range found {
		if elsewhere.MatchString(s.metric) || s.metric == "up" && s.matchers["job"] == "=node" {
			continue
		}
		var series []map[string]string
		if err = p.get("series", url.Values{"match[]": {s.metric}}, &series); err != nil {
			return err
		}
		if len(series) == 0 {
			return fmt.Errorf("there is no metric %s", s.metric)
		}
		for label, want := range s.matchers {
			var values []string
			for _, v := range series {
				if value, ok := v[label]; ok {
					values = append(values, value)
				}
			}
			if len(values) == 0 {
				return fmt.Errorf("%s has no label %s", s.metric, label)
			}
			like := "^(?:" + regexp.QuoteMeta(strings.TrimPrefix(want, "=")) + ")$"
			if text, ok := strings.CutPrefix(want, "=~"); ok {
				like = "^(?:" + text + ")$"
			}
			if ok := slices.ContainsFunc(values, regexp.MustCompile(like).MatchString); want != "" && !ok && label != "status" {
				return fmt.Errorf("%s has no %s like %s: %q", s.metric, label, want, values)
			}
		}
	}
	return nil
}

type prometheus struct{ base string }

// get asks the HTTP API.
func (p *prometheus) get(what string, in url.Values, out any) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.base+"/api/v1/"+what+"?"+in.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var reply struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err = json.NewDecoder(res.Body).Decode(&reply); err != nil {
		return err
	}
	if reply.Status != "success" {
		return fmt.Errorf("%s", reply.Error)
	}
	return json.Unmarshal(reply.Data, out)
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: prometheus is in the Debian package of that name, whose service no test should start; .ci/run unpacks it", name)
	}
	return path
}

// startPrometheus starts one with the given rules that scrapes target over TLS, with
// a certificate and a token.
func startPrometheus(t *testing.T, target, rules, ca, cert, key, token string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf(`{"global":{"scrape_interval":"1s","evaluation_interval":"1s"},"rule_files":[%q],
		"scrape_configs":[{"job_name":"nixfleet-control-plane","scheme":"https","static_configs":[{"targets":[%q]}],
		"tls_config":{"ca_file":%q,"cert_file":%q,"key_file":%q},"authorization":{"credentials_file":%q}}]}`, rules, target, ca, cert, key, token)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), program(t, "prometheus"), "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=error")
	c.Stderr = t.Output()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Wait() })
	return &prometheus{base: "http://" + addr}
}

// evaluated is a file of the monitoring scope as JSON.
func evaluated(t *testing.T, name string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), program(t, "nix-instantiate"), "--eval", "--strict", "--json", "../../nix/scopes/monitoring-server/"+name)
	c.Env = append(os.Environ(), "NIX_REMOTE=dummy://")
	c.Stderr = t.Output()
	return must[[]byte](t)(c.Output())
}

// The alert rules and the dashboard ask for metrics, labels and values that a control
// plane has, as a real Prometheus has scraped them with a client certificate and a
// token; nobody else sees them.
func TestPrometheus_FindsWhatRulesAndDashboardAskFor(t *testing.T) {
	program(t, "prometheus")
	rules, dashboard := evaluated(t, "alerts.nix"), evaluated(t, "dashboard.nix")
	w := newWorld(t)
	w.stop()
	file := func(name, kind string, b []byte) string {
		path := filepath.Join(w.dir, name)
		if kind != "" {
			b = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k := newKey(t)
	cert := must[*x509.Certificate](t)(w.keys.AgentCA.Agent(must[pki.Request](t)(pki.ParseRequest(csr(t, "mon-01", k))), w.now()))
	w.guard = config.MetricsGuard{ClientCAFile: file("clients.pem", "CERTIFICATE", w.keys.AgentCA.Cert.Raw), TokenFile: file("token", "", []byte("open sesame\n"))}
	w.start()
	admin := w.admin()
	w.enrolled(admin, "web-01")
	p := startPrometheus(t, w.addrs.Metrics.Addr().String(), file("rules.yml", "", rules),
		file("ca.pem", "CERTIFICATE", w.keys.ServerCA.Cert.Raw), file("cert.pem", "CERTIFICATE", cert.Raw),
		file("key.pem", "PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(k))), w.guard.TokenFile)
	deadline, tick := time.Now().Add(time.Minute), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for p.missing(`nixfleet_http_request_duration_seconds_bucket{operation="createToken"}`) != nil {
		if time.Now().After(deadline) {
			t.Fatal("Prometheus has scraped nothing in a minute")
		}
		<-tick.C
	}

	exprs := map[string]string{}
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := json.Unmarshal(rules, &alerts); err != nil {
		t.Fatal(err)
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			exprs["alert "+r.Alert] = r.Expr
		}
	}
	var panels struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(dashboard, &panels); err != nil {
		t.Fatal(err)
	}
	for _, panel := range panels.Panels {
		for i, q := range panel.Targets {
			exprs[fmt.Sprintf("panel %s, query %d", panel.Title, i+1)] = q.Expr
		}
	}
	if len(exprs) < 30 {
		t.Fatalf("%d expressions: %q", len(exprs), slices.Collect(maps.Keys(exprs)))
	}
	for what, expr := range exprs {
		if err := p.missing(expr); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The check itself finds what is wrong.
	for _, expr := range []string{
		`nixfleet_rollout{state="failed"} > 0`, `nixfleet_rollouts{stat="failed"}`, `nixfleet_rollouts{state="fail"}`, `sum by (team) (nixfleet_machines)`,
		`nixfleet_rollouts{state=~"won|lost"}`, `nixfleet_frozen ==`, `node_nothing`, `nixfleet_machines @ 1`,
	} {
		if p.missing(expr) == nil {
			t.Errorf("%s passes", expr)
		}
	}
	w.othersSeeNoMetrics(tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: k})
}

// othersSeeNoMetrics asks without the certificate and without the token.
func (w *world) othersSeeNoMetrics(cert tls.Certificate) {
	w.tb.Helper()
	ask := func(path, token string, certs ...tls.Certificate) (int, string) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now, Certificates: certs}}}
		defer c.CloseIdleConnections()
		req := must[*http.Request](w.tb)(http.NewRequestWithContext(w.ctx(), http.MethodGet, base(w.addrs.Metrics)+path, nil))
		req.Header.Set("Authorization", "Bearer "+token)
		res := must[*http.Response](w.tb)(c.Do(req))
		defer res.Body.Close()
		return res.StatusCode, string(must[[]byte](w.tb)(io.ReadAll(res.Body)))
	}
	for _, c := range []struct {
		path, token string
		certs       []tls.Certificate
		want        int
	}{
		{"/metrics", "open sesame", []tls.Certificate{cert}, http.StatusOK},
		{"/metrics", "open sesame", nil, http.StatusForbidden},
		{"/metrics", "open sesame!", []tls.Certificate{cert}, http.StatusUnauthorized},
		{"/metrics?series=machine", "", []tls.Certificate{cert}, http.StatusUnauthorized},
		{"/readyz", "", nil, http.StatusOK},
	} {
		status, body := ask(c.path, c.token, c.certs...)
		if status != c.want || status != http.StatusOK && strings.Contains(body, "nixfleet_") {
			w.tb.Errorf("%s with %d certificates and token %q: status %d, %.80s", c.path, len(c.certs), c.token, status, body)
		}
	}
	// One series a machine only where it is asked for.
	const each = "nixfleet_machine_last_seen_timestamp_seconds{machine=\"web-01\"}"
	if _, sums := ask("/metrics", "open sesame", cert); strings.Contains(sums, "web-01") {
		w.tb.Error("the sums name a machine")
	}
	if _, all := ask("/metrics?series=machine", "open sesame", cert); !strings.Contains(all, each) {
		w.tb.Errorf("with ?series=machine there is no %s", each)
	}
}
