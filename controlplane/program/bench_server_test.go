// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	_ "net/http/pprof" // on the default mux
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/program"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// serverEnv has the configuration of a control plane that this program is to be.
const serverEnv = "NIXFLEET_BENCH_SERVER"

// pprofEnv has an address at which net/http/pprof shows where the control plane's
// time and memory go.
const pprofEnv = "NIXFLEET_BENCH_PPROF"

// userEnv has the user that such a process becomes.
const userEnv = "NIXFLEET_TEST_USER"

func becomeUser() {
	id, err := strconv.Atoi(os.Getenv(userEnv))
	if err == nil {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id))
	}
	if os.Getenv(userEnv) != "" && err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestMain makes this program the processes that the benchmark measures with.
func TestMain(m *testing.M) {
	if addr := os.Getenv(generatorEnv); addr != "" {
		fmt.Fprintln(os.Stderr, generate(addr))
		os.Exit(1)
	}
	if config := os.Getenv(serverEnv); config != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		becomeUser()
		if addr := os.Getenv(pprofEnv); addr != "" {
			go func() { fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, nil)) }()
		}
		os.Exit(program.Main(ctx, command.Invocation{
			Version: "bench", Args: []string{"run", "--config", config}, Stdout: os.Stdout, Stderr: os.Stderr,
		}))
	}
	code := m.Run()
	if len(benchLine) > 0 && os.Getenv(benchEnv) != "" {
		fmt.Printf("%s\n", benchLine)
	}
	os.Exit(code)
}

// self starts this program as one of those processes. It ends with the test.
func self(t *testing.T, env string, stdin io.Reader) *proc.Process {
	t.Helper()
	return selfUntil(t, t, env, stdin)
}

// selfUntil starts one that ends with another test, of which t is a part.
func selfUntil(root, t *testing.T, env string, stdin io.Reader) *proc.Process {
	t.Helper()
	return spawn(root, t, proc.Cmd{Path: must(os.Executable())(t), Env: append(os.Environ(), env), Stdin: stdin})
}

// spawn starts a program that ends with another test at the latest.
func spawn(root, t *testing.T, c proc.Cmd) *proc.Process {
	t.Helper()
	c.Grace = time.Minute
	p, err := proc.Start(context.WithoutCancel(root.Context()), c)
	if err != nil {
		t.Fatal(err)
	}
	root.Cleanup(func() { kill(p) })
	return p
}

// startProgram starts another build of it.
func (c *control) startProgram(path string) {
	c.t.Helper()
	c.p = spawn(c.t, c.t, proc.Cmd{Path: path, Args: []string{"run", "--config", c.config}})
	c.becomesReady()
}

// kill ends a process if it has not ended.
func kill(p *proc.Process) {
	select {
	case <-p.Done():
	default:
		_ = p.Signal(syscall.SIGKILL)
		<-p.Done()
	}
}

// How often until looks: to ask costs the control plane, too. To count the polls
// that are held costs a look at every machine.
const (
	lookEvery = 20 * time.Millisecond
	heldEvery = 200 * time.Millisecond
)

// until waits for a condition.
func until(t *testing.T, limit, every time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", limit, what)
		}
		<-tick.C
	}
}

// control is a control plane in a process of its own.
type control struct {
	place
	root *testing.T    // with which its process ends; nil for place.t
	p    *proc.Process // nil before it was started
}

// start starts it and returns how long it took until it was ready.
func (c *control) start() time.Duration {
	c.t.Helper()
	begin := time.Now()
	root := c.root
	if root == nil {
		root = c.t
	}
	c.p = selfUntil(root, c.t, serverEnv+"="+c.config, nil)
	c.becomesReady()
	return time.Since(begin)
}

// becomesReady waits until it is.
func (c *control) becomesReady() {
	c.t.Helper()
	until(c.t, time.Minute, lookEvery, "the control plane is ready", func() bool {
		res, err := http.Get("http://" + c.metrics + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// stop stops it and returns how long that took, and how much of processors.
func (c *control) stop() (took, cpu time.Duration) {
	c.t.Helper()
	begin, before := time.Now(), ended(c.t)
	sofar := c.cpu()
	if err := c.p.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if r, err := c.p.Wait(); err != nil {
		c.t.Fatalf("%v\n%s", err, r.Stderr)
	}
	return time.Since(begin), ended(c.t) - before - sofar
}

// ended is the time that control planes which have ended took of processors. The
// generators have not.
func ended(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpu is the time it has taken of processors so far.
func (c *control) cpu() time.Duration {
	c.t.Helper()
	_, stat, _ := strings.Cut(c.proc("stat"), ") ")
	f := strings.Fields(stat)
	return time.Duration(number(c.t, f[11])+number(c.t, f[12])) * time.Second / ticks
}

// rss is its memory in MiB.
func (c *control) rss() int64 { return c.memory("VmRSS:") / 1024 }

// memory is a field of its status, in KiB: VmHWM: is the most that it has had.
func (c *control) memory(field string) int64 {
	c.t.Helper()
	for line := range strings.Lines(c.proc("status")) {
		if f := strings.Fields(line); f[0] == field {
			return number(c.t, f[1])
		}
	}
	return 0
}

// written is how many bytes it has had the disk write.
func (c *control) written() int64 {
	c.t.Helper()
	for line := range strings.Lines(c.proc("io")) {
		if f := strings.Fields(line); f[0] == "write_bytes:" {
			return number(c.t, f[1])
		}
	}
	return 0
}

func (c *control) proc(name string) string {
	c.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.p.Pid(), name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// held is how many long polls it holds.
func (c *control) held() int { return c.metric("nixfleet_long_polls") }

// checkIns is how many it has answered.
func (c *control) checkIns() int {
	return c.metric(`nixfleet_http_requests_total{listener="agents",operation="checkIn",status="200"}`)
}

// metric is one of its metrics, 0 without it.
func (c *control) metric(name string) int {
	res, err := http.Get("http://" + c.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return int(f)
		}
	}
	return 0
}

// players are the generators' processes.
type players struct {
	t         *testing.T
	bases     []string
	processes []*proc.Process
}

func newPlayers(root, t *testing.T, n int) *players {
	t.Helper()
	p := &players{t: t}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err = l.Close(); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe() // its end is the generators' end
		if err != nil {
			t.Fatal(err)
		}
		root.Cleanup(func() { _ = w.Close() })
		p.processes = append(p.processes, selfUntil(root, t, generatorEnv+"="+addr, r))
		_ = r.Close()
		until(t, 10*time.Second, lookEvery, "a generator listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		p.bases = append(p.bases, "http://"+addr)
	}
	return p
}

// all has each generator do something, with an input of its own, at the same time.
func (p *players) all(path string, input func(i int) any) times {
	p.t.Helper()
	results, errs := make([]times, len(p.bases)), make([]error, len(p.bases))
	done := make(chan struct{})
	for i, base := range p.bases {
		go func() {
			defer func() { done <- struct{}{} }()
			results[i], errs[i] = call(base+path, input(i))
		}()
	}
	sum := times{}
	for range p.bases {
		<-done
	}
	for i, r := range results {
		if errs[i] != nil {
			p.t.Fatalf("%s: %v", path, errs[i])
		}
		if sum.Began == 0 || r.Began < sum.Began {
			sum.Began = r.Began
		}
		sum.Ended = max(sum.Ended, r.Ended)
		sum.Each = append(sum.Each, r.Each...)
		sum.Sum += r.Sum
	}
	return sum
}

// connect gives them the machines of a control plane.
func (p *players) connect(at place, machines []machineToPlay) {
	p.t.Helper()
	ca := must(os.ReadFile(filepath.Join(at.dir, "ca.pem")))(p.t)
	plays := make([]fleetToPlay, len(p.bases))
	for i, m := range machines {
		to := &plays[i%len(plays)]
		to.Machines = append(to.Machines, m)
	}
	for i := range plays {
		plays[i].Agents, plays[i].CA = "https://"+at.agents, ca
	}
	p.all("/connect", func(i int) any { return plays[i] })
}

func (p *players) tell(path string, input any) times {
	p.t.Helper()
	return p.all(path, func(int) any { return input })
}

func call(url string, input any) (t times, err error) {
	b, err := json.Marshal(input)
	if err != nil {
		return t, err
	}
	res, err := http.Post(url, "application/json", bytes.NewReader(b))
	if err != nil {
		return t, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return t, err
	}
	if res.StatusCode != http.StatusOK {
		return t, fmt.Errorf("%s", bytes.TrimSpace(body))
	}
	return t, json.Unmarshal(body, &t)
}
