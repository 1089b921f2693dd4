// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

//go:embed fleet
var flake embed.FS

// Ports in the hub.
const (
	operatorsPort = 8443
	agentsPort    = 8444
	cachePort     = 8080
)

// Scene is a small fleet with all that belongs to it, driven by the programs as
// an operator drives them. The demo's story plays on it, and so do the
// end-to-end tests.
type Scene struct {
	TB   *testbed.Testbed
	Bin  string // folder of the programs
	Dir  string // the operator's: flake, keys, credentials
	Cast []Actor

	cache *testbed.Cache
	cp    *proc.Process
	env   []string
	stops []func() error // what ends when the scene ends, last first

	mu     sync.Mutex // of what follows: machines are made in parallel
	hosts  map[fleet.MachineID]*testbed.Host
	expect map[fleet.MachineID]fleet.StorePath
	trash  []string // derivations and sources to remove from the store again
}

// Actor is a machine of a scene, with the tags that its system declares.
type Actor struct {
	ID   fleet.MachineID
	Tags []fleet.Tag
}

// NewScene makes network, cache, the operator's folder with keys and flake, and
// a control plane with its first admin key. On an error nothing is left.
func NewScene(ctx context.Context, bin string, cast []Actor) (*Scene, error) {
	tb, err := testbed.New(ctx, testbed.Config{})
	if err != nil {
		return nil, err
	}
	s := &Scene{
		TB: tb, Bin: bin, Cast: cast, Dir: filepath.Join(tb.Dir(), "operator"), stops: []func() error{tb.Destroy},
		hosts: map[fleet.MachineID]*testbed.Host{}, expect: map[fleet.MachineID]fleet.StorePath{},
	}
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(err, s.Clean(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Clean ends and removes everything, in the reverse order of its making.
func (s *Scene) Clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	s.stops = nil
	return errors.Join(append(errs, s.sweepStore(ctx))...)
}

func (s *Scene) build(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(s.Dir, "home"), 0o700); err != nil {
		return fmt.Errorf("make operator's folder: %w", err)
	}
	s.env = append(os.Environ(),
		"HOME="+filepath.Join(s.Dir, "home"), "XDG_CONFIG_HOME=", "XDG_STATE_HOME=",
		testbed.NixConfig,
		"NIXFLEET_SERVER="+s.operatorsURL(), "NIXFLEET_CA="+s.cpFile("ca.pem"), "NIXFLEET_API_KEY=", "NIXFLEET_SIGN_KEY=")
	if err := s.serveCache(ctx); err != nil {
		return err
	}
	if _, err := s.Nixfleet(ctx, nil, "trust", "init", "--fleet", "demo", filepath.Join(s.Dir, "trust")); err != nil {
		return err
	}
	if err := s.writeFlake(); err != nil {
		return err
	}
	if err := s.writeControlPlane(agentsPort); err != nil {
		return err
	}
	if err := s.StartControlPlane(ctx); err != nil {
		return err
	}
	if _, err := s.Nixfleet(ctx, nil, "key", "bootstrap", "--owner", "demo", "--save", "--secret-file", s.cpFile("bootstrap-secret")); err != nil {
		return err
	}
	_, err := s.Nixfleet(ctx, nil, "trust", "pin", filepath.Join(s.Dir, "trust", "root.json"))
	return err
}

func (s *Scene) operatorsURL() string {
	return fmt.Sprintf("https://%s:%d", s.TB.HubAddr(), operatorsPort)
}
func (s *Scene) agentsURL() string { return fmt.Sprintf("https://%s:%d", s.TB.HubAddr(), agentsPort) }
func (s *Scene) cacheURL() string  { return fmt.Sprintf("http://%s:%d", s.TB.HubAddr(), cachePort) }

// cpFile is a file in the control plane's state directory.
func (s *Scene) cpFile(name string) string {
	return filepath.Join(s.TB.Dir(), "control-plane", name)
}

// serveCache serves the binary cache to the machines.
func (s *Scene) serveCache(ctx context.Context) error {
	cache, err := testbed.NewCache(filepath.Join(s.TB.Dir(), "cache-01"), "demo-cache-1")
	if err != nil {
		return err
	}
	s.cache = cache
	l, err := s.TB.ListenHub(ctx, "tcp", fmt.Sprintf(":%d", cachePort))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: cache.Handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // returns when it is closed
	}()
	s.stops = append(s.stops, func() error {
		err := srv.Close()
		<-done
		return err
	})
	return nil
}

// writeFlake lays out the operator's folder.
func (s *Scene) writeFlake() error {
	dir := s.flakeDir()
	if err := os.MkdirAll(filepath.Join(dir, "trust"), 0o755); err != nil {
		return fmt.Errorf("write flake: %w", err)
	}
	if err := os.CopyFS(filepath.Join(dir, "system"), testbed.SystemNix()); err != nil {
		return fmt.Errorf("write flake: %w", err)
	}
	text, err := flake.ReadFile("fleet/flake.nix")
	if err != nil {
		return fmt.Errorf("write flake: %w", err)
	}
	project := fmt.Sprintf("flake = %q\nroot = %q\n[cache]\nurl = %q\npublicKeys = [%q]\npush = %q\nsignKey = %q\n[release]\nconfirmWindow = \"20s\"\n",
		"path:"+dir, filepath.Join(s.Dir, "trust", "root.json"), s.cacheURL(), s.cache.PublicKey(), s.cache.Store(), s.cache.SecretKeyFile())
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "flake.nix"), text, 0o644),
		copyFile(filepath.Join(s.Bin, "nixfleet-agent"), filepath.Join(dir, "nixfleet-agent"), 0o755),
		copyFile(filepath.Join(s.Dir, "trust", "root.json"), filepath.Join(dir, "trust", "root.json"), 0o644),
		os.WriteFile(filepath.Join(s.Dir, "nixfleet.toml"), []byte(project), 0o644),
	)
}

func (s *Scene) flakeDir() string { return filepath.Join(s.Dir, "fleet") }

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	return nil
}

// writeControlPlane writes the control plane's configuration; agents is the
// port of its agents' listener.
func (s *Scene) writeControlPlane(agents int) error {
	dir := s.cpFile("")
	text := fmt.Sprintf("stateDir = %q\n[listen]\noperators = \":%d\"\nagents = \":%d\"\nmetrics = \"127.0.0.1:9443\"\n[tls]\nnames = [%q, \"localhost\"]\n",
		strings.TrimSuffix(dir, "/"), operatorsPort, agents, s.TB.HubAddr().String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("configure control plane: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.TB.Dir(), "control-plane.toml"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure control plane: %w", err)
	}
	return nil
}

// StartControlPlane starts the program and waits until it is ready.
func (s *Scene) StartControlPlane(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.TB.Dir(), "control-plane.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start control plane: %w", err)
	}
	defer log.Close()
	p, err := proc.Start(context.WithoutCancel(ctx), s.TB.HubCommand(proc.Cmd{
		Path: filepath.Join(s.Bin, "nixfleet-control-plane"), Args: []string{"run", "--config", filepath.Join(s.TB.Dir(), "control-plane.toml")},
		Dir: "/", Stdout: log, Stderr: log,
	}))
	if err != nil {
		return fmt.Errorf("start control plane: %w", err)
	}
	if s.cp == nil {
		s.stops = append(s.stops, s.StopControlPlane)
	}
	s.cp = p
	client := &http.Client{Transport: &http.Transport{DialContext: s.TB.DialHub, DisableKeepAlives: true}, Timeout: time.Second}
	return s.Until(ctx, 20*time.Second, "the control plane is ready", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return fmt.Errorf("it ended: %s", s.logTail())
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost:9443/readyz", nil)
		if err != nil {
			return err
		}
		r, err := client.Do(req)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz says %s", r.Status)
		}
		return nil
	})
}

// StopControlPlane ends the program as systemd would.
func (s *Scene) StopControlPlane() error { return s.endControlPlane(syscall.SIGTERM) }

// RestartControlPlane kills the control plane with -9 and starts it again, as
// systemd would.
func (s *Scene) RestartControlPlane(ctx context.Context) error {
	if err := s.endControlPlane(syscall.SIGKILL); err != nil {
		return err
	}
	return s.StartControlPlane(ctx)
}

// endControlPlane signals the program and waits for its end. What was started is
// nsenter, which waits for its one child: that is the control plane.
func (s *Scene) endControlPlane(sig syscall.Signal) error {
	select {
	case <-s.cp.Done():
		return nil
	default:
	}
	pid := s.cp.Pid()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("end control plane: %w", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("end control plane: children of %d are %q", pid, b)
	}
	if err := syscall.Kill(child, sig); err != nil {
		return fmt.Errorf("end control plane: %w", err)
	}
	t := time.NewTimer(15 * time.Second)
	defer t.Stop()
	select {
	case <-s.cp.Done():
		return nil
	case <-t.C:
		return errors.Join(errors.New("end control plane: it does not end"), syscall.Kill(child, syscall.SIGKILL))
	}
}

func (s *Scene) logTail() string {
	b, err := os.ReadFile(filepath.Join(s.TB.Dir(), "control-plane.log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// Until tries again until f succeeds; the error says what it waited for.
func (s *Scene) Until(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

// Nixfleet runs the command line as the operator does, in the hub's network;
// with out, what it prints as JSON is decoded into it. The codes of a rollout
// that did not go well are for the caller.
func (s *Scene) Nixfleet(ctx context.Context, out any, args ...string) (int, error) {
	if out != nil {
		args = append(args, "--json")
	}
	res, err := proc.Run(ctx, s.TB.HubCommand(proc.Cmd{
		Path: filepath.Join(s.Bin, "nixfleet"), Args: args, Env: s.env, Dir: s.Dir, MaxOutput: 16 << 20, Timeout: 5 * time.Minute,
	}))
	if code := proc.ExitCode(err); err != nil && (code < 3 || out == nil) {
		if ctx.Err() != nil {
			return code, context.Cause(ctx)
		}
		return code, fmt.Errorf("nixfleet %s: %s", strings.Join(args, " "), bytes.TrimSpace(res.Stderr))
	}
	if out != nil {
		if err := json.Unmarshal(res.Stdout, out); err != nil {
			return res.ExitCode, fmt.Errorf("nixfleet %s: output: %w", strings.Join(args, " "), err)
		}
	}
	return res.ExitCode, nil
}

// sweepStore removes what the demo's builds have put into the machine's store:
// the derivations it made, what they built and the flake's sources. Paths that
// something else uses stay.
func (s *Scene) sweepStore(ctx context.Context) error {
	if len(s.trash) == 0 {
		return nil
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: append([]string{"--query", "--requisites", "--include-outputs"}, s.trash...), MaxOutput: 16 << 20, Env: s.env})
	if err != nil {
		return fmt.Errorf("list store paths: %w", err)
	}
	paths := strings.Fields(string(res.Stdout))
	// One alive path must not save the others: what fails is tried one by one.
	if _, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: append([]string{"--delete"}, paths...), Env: s.env}); err == nil {
		return nil
	}
	for _, p := range paths {
		if _, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: []string{"--delete", p}, Env: s.env}); err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// remember notes what the store got for a system, to be removed at the end.
func (s *Scene) remember(ctx context.Context, paths ...fleet.StorePath) error {
	for _, p := range paths {
		res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: []string{"--query", "--deriver", string(p)}, Env: s.env})
		if err != nil {
			return fmt.Errorf("find derivation: %w", err)
		}
		if drv := strings.TrimSpace(string(res.Stdout)); strings.HasPrefix(drv, fleet.StoreDir) {
			s.trash = append(s.trash, drv)
		}
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: []string{"flake", "metadata", "--json", "path:" + s.flakeDir()}, Env: s.env})
	if err != nil {
		return fmt.Errorf("find flake's source: %w", err)
	}
	var meta struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(res.Stdout, &meta); err != nil {
		return fmt.Errorf("find flake's source: %w", err)
	}
	s.trash = append(s.trash, meta.Path)
	return nil
}
