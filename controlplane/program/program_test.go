// SPDX-License-Identifier: AGPL-3.0-only

package program_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/program"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// run is one run of the program.
func run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = program.Main(ctx, command.Invocation{Version: "test", Args: args, Stdout: &out, Stderr: &err})
	return code, out.String(), err.String()
}

// place is a control plane's configuration on free ports.
type place struct {
	t                          *testing.T
	dir, config                string
	operators, agents, metrics string
}

func newPlace(t *testing.T) place {
	t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	p := place{t: t, dir: filepath.Join(t.TempDir(), "state"), operators: free(), agents: free(), metrics: free()}
	p.config = filepath.Join(t.TempDir(), "control-plane.toml")
	p.write(fmt.Sprintf("stateDir = %q\n[listen]\noperators = %q\nagents = %q\nmetrics = %q\n[tls]\nnames = [\"127.0.0.1\"]\n", p.dir, p.operators, p.agents, p.metrics))
	return p
}

func (p place) write(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// up runs the program until it is ready, and returns what ends it.
func (p place) up() (stop func() (code int, stderr string)) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var code int
	var stderr string
	var wg sync.WaitGroup
	wg.Go(func() { code, _, stderr = run(ctx, "run", "--config", p.config) })
	p.t.Cleanup(func() { cancel(); wg.Wait() })
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		<-tick.C
		res, err := http.Get("http://" + p.metrics + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			cancel()
			wg.Wait()
			p.t.Fatalf("not ready in 20 s: %s", stderr)
		}
	}
	return func() (int, string) {
		cancel()
		wg.Wait()
		return code, stderr
	}
}

func (p place) client(key string) *api.Client {
	p.t.Helper()
	ca, err := os.ReadFile(filepath.Join(p.dir, "ca.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := api.NewClient(api.ClientConfig{BaseURL: "https://" + p.operators, Key: key, CAPem: ca})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestRun_ExchangesTheBootstrapSecretAndKeepsTheKey(t *testing.T) {
	p := newPlace(t)
	stop := p.up()
	file := filepath.Join(p.dir, "bootstrap-secret")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the secret's mode is %v, want 0600", info.Mode().Perm())
	}
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := p.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	code, stderr := stop()
	if code != 0 || strings.Contains(stderr, strings.TrimSpace(string(secret))) || strings.Contains(stderr, key.Secret) {
		t.Errorf("code %d, or a secret in the log:\n%s", code, stderr)
	}

	stop = p.up()
	if _, err = p.client(key.Secret).Whoami(t.Context()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	_, err = p.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "eve"})
	if fleet.ErrorCode(err) != fleet.Unauthenticated {
		t.Errorf("the secret a second time: got %v", err)
	}
	stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.up()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a new secret was made though there is an admin key: %v", err)
	}
}

func TestDoctor_WorksWhileItRuns(t *testing.T) {
	p := newPlace(t)
	p.up()
	code, stdout, stderr := run(t.Context(), "doctor", "--config", p.config, "--json")
	var v struct {
		Findings []health.Finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 {
		t.Errorf("doctor: code %d, %v, %s%s", code, err, stdout, stderr)
	}
	for _, f := range v.Findings {
		if f.Severity == "error" {
			t.Errorf("doctor of a new control plane: %+v", f)
		}
	}
}

func TestMain_SaysWhatIsWrongInOneLine(t *testing.T) {
	busy := newPlace(t)
	l, err := net.Listen("tcp", busy.agents)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	typo := newPlace(t)
	typo.write("stateDirr = \"/x\"\n")
	open := newPlace(t)
	if err := os.MkdirAll(open.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(open.dir, "epoch.key"), make([]byte, 32), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(open.dir, "epoch.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	noDatabase := newPlace(t)
	if err := os.MkdirAll(noDatabase.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(noDatabase.dir, "nixfleet.db"), []byte("this is no database, and is long enough to be looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"port in use", []string{"run", "--config", busy.config}, 1, "listen.agents: " + busy.agents + " is in use"},
		{"unknown setting", []string{"run", "--config", typo.config}, 1, "stateDirr"},
		{"no configuration", []string{"run", "--config", "/nonexistent.toml"}, 1, "does not exist"},
		{"key open to others", []string{"run", "--config", open.config}, 1, "epoch.key may be read by others"},
		{"not a database", []string{"run", "--config", noDatabase.config}, 1, "nixfleet.db"},
		{"doctor before the first start", []string{"doctor", "--config", typo.config}, 1, "stateDirr"},
		{"unknown flag", []string{"run", "--colour"}, 2, "--colour"},
		{"missing argument", []string{"config", "check"}, 2, "arg"},
		{"unknown command", []string{"explode"}, 2, "explode"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code, stdout, stderr := run(ctx, tt.args...)
		cancel()
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if code != tt.code || stdout != "" || !strings.Contains(lines[0], tt.want) || len(lines) > 2 {
			t.Errorf("%s: code %d, stdout %q, stderr:\n%s\nwant code %d and one line with %q", tt.name, code, stdout, stderr, tt.code, tt.want)
		}
	}
}

func TestConfigCheck_AcceptsAGoodFile(t *testing.T) {
	p := newPlace(t)
	if code, stdout, stderr := run(t.Context(), "config", "check", p.config); code != 0 || !strings.Contains(stdout, "is valid") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
}

// rootOf writes a root document of a fleet and returns its file.
func rootOf(t *testing.T, fleetID string, version uint64) string {
	t.Helper()
	key := trusttest.Key("root")
	id := trust.KeyID(key.Public())
	payload, err := trust.NewRoot(fleet.Root{
		FleetID: fleetID, Version: version, Expires: time.Now().Add(time.Hour).UnixMilli(),
		Keys:  map[string]fleet.TrustKey{id: key.PublicKey().Trust()},
		Roles: map[fleet.TrustRole]fleet.KeyQuota{fleet.TrustRoleRoot: {Keys: []string{id}, Threshold: 1}, fleet.TrustRoleRelease: {Keys: []string{id}, Threshold: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := trust.Sign(fleet.TypeRoot, payload, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(file, e.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRun_PinsTheRootOfItsConfigurationAndFollowsIt(t *testing.T) {
	p := newPlace(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	with := func(file string) { p.write(fmt.Sprintf("%s[trust]\nrootFile = %q\n", text, file)) }
	fleetOf := func() string {
		t.Helper()
		info, err := p.client("").Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.FleetID
	}
	with(rootOf(t, "blue", 2))
	stop := p.up()
	if got := fleetOf(); got != "blue" {
		t.Errorf("fleet %q, want that of the configured root", got)
	}
	stop()
	for _, version := range []uint64{1, 2, 3} { // older, the same, the next
		with(rootOf(t, "blue", version))
		stop = p.up()
		if got := fleetOf(); got != "blue" {
			t.Errorf("version %d: fleet %q", version, got)
		}
		stop()
	}
	with(rootOf(t, "red", 4))
	if code, _, stderr := run(t.Context(), "run", "--config", p.config); code != 1 || !strings.Contains(stderr, "is of fleet red") {
		t.Errorf("another fleet's root: code %d, %s", code, stderr)
	}
}

func TestDoctor_AcceptsOnlyADatabaseThatWasRestored(t *testing.T) {
	p := newPlace(t)
	p.up()()
	code, _, stderr := run(t.Context(), "doctor", "--config", p.config, "--accept-restored")
	if code != 1 || !strings.Contains(stderr, "was not restored") {
		t.Errorf("code %d: %s", code, stderr)
	}
}
