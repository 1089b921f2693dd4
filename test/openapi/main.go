// SPDX-License-Identifier: MIT

// Program openapi lets others' programs judge docs/reference/openapi.json: redocly reads
// it, and clients that openapi-typescript and oapi-codegen generate from it call
// a control plane. `make openapi-check` runs it; its last line is JSON.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/program"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// The programs that judge, as npm and Go name them.
var npm = []string{"@redocly/cli@2.77.0", "openapi-typescript@7.13.0", "typescript@5.9.3"}

const (
	oapiCodegen = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"
	oapiRuntime = "github.com/oapi-codegen/runtime@v1.9.0"
)

const document, clients = "docs/reference/openapi.json", "test/openapi/testdata"

func main() {
	took := map[string]int64{}
	err := judge(context.Background(), took)
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi-check:", err)
	}
	line, _ := json.Marshal(map[string]any{"ok": err == nil, "tookMs": took}) // of plain values
	fmt.Println(string(line))
	if err != nil {
		os.Exit(1)
	}
}

// judge runs each program and notes how long it took, in milliseconds.
func judge(ctx context.Context, took map[string]int64) (err error) {
	dir, err := os.MkdirTemp("", "nixfleet-openapi-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	doc, err := filepath.Abs(document)
	if err != nil {
		return err
	}
	for _, name := range []string{"client.go.txt", "client.ts"} {
		text, err := os.ReadFile(filepath.Join(clients, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, strings.TrimSuffix(name, ".txt")), text, 0o600)
		}
		if err != nil {
			return err
		}
	}
	r := runner{dir, took}
	bin := func(name string) string { return filepath.Join(dir, "node_modules", ".bin", name) }
	for _, s := range [][]string{
		append([]string{"fetch", "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir}, npm...),
		{"redocly", bin("redocly"), "lint", "--max-problems", "20", doc},
		{"openapi-typescript", bin("openapi-typescript"), doc, "-o", "api.d.ts"},
		{"tsc", bin("tsc"), "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "commonjs", "client.ts"},
		{"fetch", "go", "mod", "init", "client"},
		{"oapi-codegen", "go", "run", oapiCodegen, "-generate", "types,client", "-package", "main", "-o", "api.go", doc},
		{"fetch", "go", "get", oapiRuntime},
		{"compile", "go", "build", "-o", "client", "."},
	} {
		if err := r.step(ctx, s[0], nil, s[1:]...); err != nil {
			return err
		}
	}
	return withServer(ctx, dir, func(env []string) error {
		if err := r.step(ctx, "call from Go", env, filepath.Join(dir, "client")); err != nil {
			return err
		}
		return r.step(ctx, "call from TypeScript", env, "node", "client.js")
	})
}

// runner runs programs in a folder.
type runner struct {
	dir  string
	took map[string]int64
}

func (r runner) step(ctx context.Context, name string, env []string, cmd ...string) error {
	begin := time.Now()
	defer func() { r.took[name] += time.Since(begin).Milliseconds() }()
	fmt.Fprintln(os.Stderr, "openapi-check:", name)
	res, err := proc.Run(ctx, proc.Cmd{Path: cmd[0], Args: cmd[1:], Dir: r.dir, Env: append(os.Environ(), env...), Timeout: 5 * time.Minute})
	if err != nil {
		return fmt.Errorf("%s: %w\n%s%s", name, err, res.Stdout, res.Stderr)
	}
	return nil
}

// withServer runs call beside a control plane; env says how to reach it.
func withServer(ctx context.Context, dir string, call func(env []string) error) (err error) {
	var addrs [3]string
	for i := range addrs {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		addrs[i] = l.Addr().String()
		if err = l.Close(); err != nil {
			return err
		}
	}
	state, config := filepath.Join(dir, "state"), filepath.Join(dir, "control-plane.toml")
	text := fmt.Sprintf("stateDir = %q\n[listen]\noperators = %q\nagents = %q\nmetrics = %q\n[tls]\nnames = [\"127.0.0.1\"]\n", state, addrs[0], addrs[1], addrs[2])
	if err = os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		var log bytes.Buffer
		code := program.Main(ctx, command.Invocation{Version: "check", Args: []string{"run", "--config", config}, Stdout: io.Discard, Stderr: &log})
		if code != 0 {
			ended <- fmt.Errorf("the control plane ended with %d\n%s", code, log.String())
		}
		close(ended)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	key, ca, err := firstKey(ctx, state, addrs)
	if err != nil {
		return err
	}
	return call([]string{"SERVER=https://" + addrs[0], "KEY=" + key, "CA=" + ca, "NODE_EXTRA_CA_CERTS=" + ca})
}

// firstKey waits until the control plane is ready and returns an admin key and the
// file with its CA.
func firstKey(ctx context.Context, state string, addrs [3]string) (key, ca string, err error) {
	tick, limit := time.NewTicker(20*time.Millisecond), time.Now().Add(30*time.Second)
	defer tick.Stop()
	for ready := false; !ready; <-tick.C {
		if time.Now().After(limit) {
			return "", "", errors.New("the control plane is not ready after 30 s")
		}
		if res, answer := http.Get("http://" + addrs[2] + "/readyz"); answer == nil {
			ready = res.StatusCode == http.StatusOK
			_ = res.Body.Close() // its status counts
		}
	}
	ca = filepath.Join(state, "ca.pem")
	pem, err := os.ReadFile(ca)
	if err != nil {
		return "", "", err
	}
	secret, err := os.ReadFile(filepath.Join(state, "bootstrap-secret"))
	if err != nil {
		return "", "", err
	}
	c, err := api.NewClient(api.ClientConfig{BaseURL: "https://" + addrs[0], CAPem: pem})
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	k, err := c.BootstrapKey(ctx, api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "check"})
	return k.Secret, ca, err
}
