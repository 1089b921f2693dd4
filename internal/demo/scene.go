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
	"slices"
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

// Scene is a small fleet with its cache, control plane and operator's folder. It
// uses the programs as an operator does. The demo and the end-to-end tests run on
// it.
type Scene struct {
	TB   *testbed.Testbed
	Bin  string // folder of the programs
	Dir  string // the operator's: flake, keys, credentials
	Cast []Actor

	cache *testbed.Cache
	cp    *proc.Process
	env   []string
	stops []func() error // called by Clean, the last first

	mu     sync.Mutex // of the fields below: machines are made in parallel
	hosts  map[fleet.MachineID]*testbed.Host
	expect map[fleet.MachineID]fleet.StorePath
	trash  []string // derivations and sources that Clean removes from the store
	roots  int      // how many GC roots protect them
}

// Actor is a machine of a scene, with the tags that its system declares.
type Actor struct {
	ID     fleet.MachineID
	Tags   []fleet.Tag
	Reboot string // the agent's reboot policy; empty: never
}

// NewScene makes the network, the cache, the operator's folder with keys and
// flake, and a control plane with its first admin key. After an error nothing is
// left.
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

// Clean stops and removes everything, in reverse order.
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
	if err := s.writeFlake(ctx); err != nil {
		return err
	}
	if err := s.writeControlPlane(agentsPort, ""); err != nil {
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

// writeFlake fills the operator's folder.
func (s *Scene) writeFlake(ctx context.Context) error {
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
	project := fmt.Sprintf("flake = %q\nroot = %q\n[cache]\nurl = %q\npublicKeys = [%q]\npush = %q\nsignKey = %q\n[release]\nconfirmWindow = \"8s\"\n",
		"path:"+dir, filepath.Join(s.Dir, "trust", "root.json"), s.cacheURL(), s.cache.PublicKey(), s.cache.Store(), s.cache.SecretKeyFile())
	programs := filepath.Join(s.Dir, "programs")
	if err = os.MkdirAll(programs, 0o755); err != nil {
		return fmt.Errorf("write flake: %w", err)
	}
	text = bytes.ReplaceAll(text, []byte("@programs@"), []byte(programs))
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "flake.nix"), text, 0o644),
		copyFile(filepath.Join(s.Bin, "nixfleet-agent"), filepath.Join(programs, "nixfleet-agent"), 0o755, ""),
		// Another build of the same program: bytes after the end of an ELF file are ignored.
		copyFile(filepath.Join(s.Bin, "nixfleet-agent"), filepath.Join(programs, "nixfleet-agent-new"), 0o755, "\nanother build\n"),
		copyFile(filepath.Join(s.Dir, "trust", "root.json"), filepath.Join(dir, "trust", "root.json"), 0o644, ""),
		os.WriteFile(filepath.Join(s.Dir, "nixfleet.toml"), []byte(project), 0o644),
		os.WriteFile(filepath.Join(s.Dir, "nix.conf"), []byte(testbed.NixSettings), 0o644), // for whoever looks around
	)
	if err != nil {
		return err
	}
	// With a lock file the programs are not copied again for each evaluation.
	// Locking copies the flake into the store as it is now.
	if err := s.rememberSources(ctx); err != nil {
		return err
	}
	if _, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: []string{"flake", "lock", "path:" + dir}, Env: s.env}); err != nil {
		return fmt.Errorf("lock flake: %w", err)
	}
	return s.rememberSources(ctx)
}

func (s *Scene) flakeDir() string { return filepath.Join(s.Dir, "fleet") }

func copyFile(from, to string, mode os.FileMode, tail string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	_, err = io.Copy(out, io.MultiReader(in, strings.NewReader(tail)))
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	return nil
}

// writeControlPlane writes the control plane's configuration; agents is the port
// where it listens for agents, and more is added to its table tls.
func (s *Scene) writeControlPlane(agents int, more string) error {
	dir := s.cpFile("")
	text := fmt.Sprintf("stateDir = %q\n[listen]\noperators = \":%d\"\nagents = \":%d\"\nmetrics = \"127.0.0.1:9443\"\n[tls]\nnames = [%q, \"localhost\"]\n%s",
		strings.TrimSuffix(dir, "/"), operatorsPort, agents, s.TB.HubAddr().String(), more)
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

// endControlPlane signals the program and waits for its end. The process that was
// started is nsenter; its only child is the control plane.
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

// Until calls f until it succeeds. The error names what it waited for.
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

// Nixfleet runs the command line as the operator does, in the hub's network. If
// out is set, the output is decoded into it as JSON. The exit codes of a rollout
// that did not succeed are for the caller.
func (s *Scene) Nixfleet(ctx context.Context, out any, args ...string) (int, error) {
	return s.Run(ctx, Command{Args: args, Out: out})
}

// Command is a call of the command line.
type Command struct {
	Args []string
	Out  any               // decoded from its JSON; nil: the output is dropped
	Line func(line string) // called with each line of progress
	Key  string            // an API key instead of the operator's own
	Text io.Writer         // gets what it prints, as a person sees it
}

// Run is Nixfleet with more options.
func (s *Scene) Run(ctx context.Context, c Command) (int, error) {
	args, env := c.Args, s.env
	if c.Out != nil {
		args = append(slices.Clone(args), "--json")
	}
	if c.Key != "" {
		env = append(slices.Clone(env), "NIXFLEET_API_KEY="+c.Key)
	}
	res, err := proc.Run(ctx, s.TB.HubCommand(proc.Cmd{
		Path: filepath.Join(s.Bin, "nixfleet"), Args: args, Env: env, Dir: s.Dir, MaxOutput: 16 << 20, Timeout: 5 * time.Minute,
		OnLine: func(stream proc.Stream, line string) {
			if c.Line != nil && stream == proc.Stderr {
				c.Line(line)
			}
			if c.Text != nil {
				fmt.Fprintln(c.Text, line)
			}
		},
	}))
	if code := proc.ExitCode(err); err != nil && (code < 3 || c.Out == nil) {
		if ctx.Err() != nil {
			return code, context.Cause(ctx)
		}
		return code, fmt.Errorf("nixfleet %s: %s", strings.Join(args, " "), bytes.TrimSpace(res.Stderr))
	}
	if c.Out != nil {
		if err := json.Unmarshal(res.Stdout, c.Out); err != nil {
			return res.ExitCode, fmt.Errorf("nixfleet %s: output: %w", strings.Join(args, " "), err)
		}
	}
	return res.ExitCode, nil
}
