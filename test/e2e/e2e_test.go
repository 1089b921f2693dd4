// SPDX-License-Identifier: MIT

// Package e2e tests what users do, with the programs themselves: real Nix, real
// TLS, real processes. The scripts need only a control plane on loopback; the demo
// and the chaos test need a machine that can run a testbed.
package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// bin is the folder of the programs, built for this run.
var bin string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "nixfleet-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = dir
	_, err = proc.Run(context.Background(), proc.Cmd{
		Path: "go", Args: []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/", "./cmd/..."},
		Dir: "../..", Env: append(os.Environ(), "CGO_ENABLED=0"), Timeout: 10 * time.Minute,
	})
	if err != nil {
		return 1, fmt.Errorf("build programs: %w", err)
	}
	return m.Run(), nil
}

func TestScripts(t *testing.T) {
	testbed.RequireNix(t)
	testscript.Run(t, testscript.Params{
		Dir: ".",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("NIX_CONFIG", testbed.NixSettings)
			c := &controlPlane{dir: filepath.Join(e.WorkDir, "cp")}
			e.Values[controlPlaneKey{}] = c
			e.Defer(func() { _ = c.kill() })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"control-plane": controlPlaneCmd},
	})
}

type controlPlaneKey struct{}

// controlPlane is the program, as a script runs it on loopback.
type controlPlane struct {
	dir     string
	process *proc.Process
	ports   [3]int
}

// controlPlaneCmd is the script command `control-plane start|kill`: start sets
// NIXFLEET_SERVER and NIXFLEET_CA; kill is a kill -9.
func controlPlaneCmd(ts *testscript.TestScript, neg bool, args []string) {
	c := ts.Value(controlPlaneKey{}).(*controlPlane)
	if neg || len(args) != 1 {
		ts.Fatalf("usage: control-plane start|kill")
	}
	var err error
	switch args[0] {
	case "start":
		if err = c.start(); err == nil {
			ts.Setenv("NIXFLEET_SERVER", "https://127.0.0.1:"+strconv.Itoa(c.ports[0]))
			ts.Setenv("NIXFLEET_CA", filepath.Join(c.dir, "ca.pem"))
			ts.Setenv("OPERATORS_PORT", strconv.Itoa(c.ports[0]))
		}
	case "kill":
		err = c.kill()
	default:
		ts.Fatalf("usage: control-plane start|kill")
	}
	ts.Check(err)
}

func (c *controlPlane) start() error {
	if c.ports[0] == 0 {
		if err := c.configure(); err != nil {
			return err
		}
	}
	return c.boot()
}

// configure chooses free ports and writes the configuration.
func (c *controlPlane) configure() error {
	for i := range c.ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close() // not before all three are chosen, so that they differ
		c.ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf("stateDir = %q\n[listen]\noperators = \"127.0.0.1:%d\"\nagents = \"127.0.0.1:%d\"\nmetrics = \"127.0.0.1:%d\"\n[tls]\nnames = [\"127.0.0.1\"]\n",
		c.dir, c.ports[0], c.ports[1], c.ports[2])
	return os.WriteFile(c.dir+".toml", []byte(text), 0o600)
}

// boot starts the program and waits until it is ready.
func (c *controlPlane) boot() error {
	p, err := proc.Start(context.Background(), proc.Cmd{Path: filepath.Join(bin, "nixfleet-control-plane"), Args: []string{"run", "--config", c.dir + ".toml"}})
	if err != nil {
		return err
	}
	c.process = p
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", c.ports[2]), nil)
		if err != nil {
			return err
		}
		if r, err := http.DefaultClient.Do(req); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.Done():
			res, err := p.Wait()
			return fmt.Errorf("control plane ended: %w: %s", err, strings.TrimSpace(string(res.Stderr)))
		case <-ctx.Done():
			return fmt.Errorf("control plane is not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *controlPlane) kill() error {
	if c.process == nil {
		return nil
	}
	err := c.process.Signal(syscall.SIGKILL)
	_, _ = c.process.Wait() // how it ended is known
	c.process = nil
	return err
}
