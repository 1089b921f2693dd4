// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// audited are the packages whose refusals are mutated, and of a package of which
// only some files judge, these.
var audited = map[string][]string{
	"internal/trust":         nil,
	"internal/agent":         {"agent.go", "command.go", "floor.go", "load.go", "watchdog.go"},
	"internal/agent/link":    nil,
	"internal/agent/machine": {"judge.go", "idle.go", "learn.go", "fetch.go"},
	"internal/agent/states":  nil,
	"internal/nix":           nil,
	"controlplane/plane":     nil,
	"controlplane/server":    nil,
	"controlplane/wire":      nil,
}

// keepers decide nothing, as ARCHITECTURE.md has it: their errors say that something
// could not be read, written or started.
var keepers = []string{"controlplane/store", "internal/agent/disk", "internal/agent/host", "internal/atomicfile", "internal/proc"}

// ownTests are, of a package that has stories on hosts too, the tests that need none.
var ownTests = map[string]string{
	"internal/agent": "TestTokenFloor|TestLeave|TestLoad|TestFloorCopy|TestKnowledge|TestCommands|TestRun|TestAdoptFloor|TestAllowRepair|TestEnroll|TestWatchdog",
}

// storeTests are packages whose tests change the machine's Nix store.
var storeTests = []string{"internal/nix", "internal/agent/machine"}

// audits reports whether a file, relative to the module, is audited.
func audits(file string) bool {
	dir, name := path.Split(file)
	files, ok := audited[path.Clean(dir)]
	return ok && (files == nil || slices.Contains(files, name))
}

// suite is tests of one package.
type suite struct {
	Dir string
	Run string // which; "" is all
}

// judgeTests are the attacks that need neither a control plane nor a host.
const judgeTests = "TestTimestamps|TestDocuments|TestTimes|TestGrants|Refused$|TestAnyByte|TestRevert|TestAfter|TestNextLine"

// attackTests are the attacks that need no host.
const attackTests = "TestAttacks_(From|With|On)"

// slow reports whether -fast leaves a suite out: one with hosts or control planes.
func slow(s suite) bool { return s.Dir == "internal/agent" || s.Run == attackTests }

// widerSuites are what a mutant meets that survives the tests of its own package.
var widerSuites = map[string][]suite{
	"internal/trust":         {{Dir: "internal/agent/states"}, {Dir: "test/hostile", Run: judgeTests}},
	"internal/agent":         {{Dir: "internal/agent/program"}, {"internal/agent", "TestEngine|TestAgent_Applies"}},
	"internal/agent/link":    {{Dir: "test/hostile", Run: attackTests}},
	"internal/agent/machine": {{"internal/agent", "TestEngine|TestTokenFloor"}},
	"internal/nix":           {{Dir: "internal/agent/machine"}, {Dir: "test/hostile", Run: attackTests}},
	"controlplane/plane":     {{Dir: "controlplane/server"}, {Dir: "test/hostile", Run: attackTests}},
	"controlplane/server":    {{Dir: "test/hostile", Run: attackTests}},
	"controlplane/wire":      {{Dir: "controlplane/server"}, {Dir: "test/hostile", Run: attackTests}},
}

// program is a suite's test program with all mutants in it.
type program struct {
	suite suite
	file  string
	tests []test
}

// test is a test without a mutant.
type test struct {
	name  string
	took  time.Duration
	notes map[string]bool // mutants that would have changed something in it, by id
}

// lab compiles suites once, and runs mutants in them.
type lab struct {
	m        *module
	dir      string // of the programs
	overlay  string
	progress func(format string, args ...any)
	fast     bool // leaves the slowSuites out

	mu       sync.Mutex // of programs: one is made at a time
	programs map[suite]*program
	store    sync.Mutex // of the machine's Nix store: tests that change it run alone
}

// program compiles a suite and runs each of its tests without a mutant: one that
// fails so cannot judge.
func (l *lab) program(ctx context.Context, s suite) (*program, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.programs[s]; ok {
		return p, nil
	}
	p := &program{suite: s, file: filepath.Join(l.dir, strings.ReplaceAll(s.Dir, "/", "+")+".test")}
	if _, err := os.Stat(p.file); err != nil {
		if err := l.m.compile(ctx, l.overlay, s.Dir, p.file); err != nil {
			return nil, err
		}
	}
	list, err := proc.Run(ctx, proc.Cmd{Path: p.file, Args: []string{"-test.list", cmp.Or(s.Run, ".")}, Dir: filepath.Join(l.m.dir, s.Dir)})
	if err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w\n%s", s.Dir, err, list.Stderr)
	}
	begin := time.Now()
	for _, name := range strings.Fields(string(list.Stdout)) {
		if strings.HasPrefix(name, "Benchmark") {
			continue
		}
		t, err := l.measure(ctx, p, name)
		if err != nil {
			return nil, err
		}
		p.tests = append(p.tests, t)
	}
	l.programs[s] = p
	l.progress("%s: its %d tests pass without a mutant, in %s", s.Dir, len(p.tests), time.Since(begin).Round(100*time.Millisecond))
	return p, nil
}

// measure runs one test without a mutant.
func (l *lab) measure(ctx context.Context, p *program, name string) (test, error) {
	file := filepath.Join(l.dir, "notes")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return test{}, err
	}
	begin := time.Now()
	by, out, failed := l.run(ctx, p, []string{name}, 10*time.Minute, variable+"=-1", notes+"="+file)
	if failed {
		return test{}, fmt.Errorf("%s of %s fails without a mutant (%s)\n%s", name, p.suite.Dir, by, out)
	}
	took := time.Since(begin)
	text, err := os.ReadFile(file)
	if err != nil {
		return test{}, err
	}
	t := test{name, took, map[string]bool{}}
	for _, id := range strings.Fields(string(text)) {
		t.notes[id] = true
	}
	return t, nil
}

// concerned names the tests in which a mutant changes something, and tells how long
// they may take with it.
func (p *program) concerned(id string) (names []string, limit time.Duration) {
	for _, t := range p.tests {
		if t.notes[id] {
			names, limit = append(names, t.name), limit+t.took
		}
	}
	return names, 5*limit + 30*time.Second
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// run runs tests of a suite and tells which one failed.
func (l *lab) run(ctx context.Context, p *program, tests []string, limit time.Duration, env ...string) (by string, out []byte, failed bool) {
	if slices.Contains(storeTests, p.suite.Dir) {
		l.store.Lock()
		defer l.store.Unlock()
	}
	// A property that fails leaves a file beside its test; that of a mutant is not kept.
	left := filepath.Join(l.m.dir, p.suite.Dir, "testdata", "rapid")
	if _, err := os.Stat(left); err != nil {
		defer os.RemoveAll(left)
	}
	res, err := proc.Run(ctx, proc.Cmd{
		Path: p.file, Args: []string{"-test.failfast", "-test.timeout", limit.String(), "-test.run", "^(" + strings.Join(tests, "|") + ")$"},
		Dir: filepath.Join(l.m.dir, p.suite.Dir), Env: append(os.Environ(), env...), Timeout: limit + 10*time.Second,
	})
	out = append(res.Stdout, res.Stderr...)
	if err == nil {
		return "", out, false
	}
	if m := failedTest.FindSubmatch(out); m != nil {
		return p.suite.Dir + " " + string(m[1]), out, true
	}
	if bytes.Contains(out, []byte("panic: test timed out")) {
		return p.suite.Dir + ", which did not end", out, true
	}
	return p.suite.Dir + ", which ended with " + err.Error(), out, true
}

// meet runs a mutant against its own tests, then the wider ones, and tells what
// caught it; "" if nothing did. Tests in which it changes nothing are left out.
func (l *lab) meet(ctx context.Context, mu mutant) (by string, err error) {
	for i, s := range append([]suite{{mu.Dir, ownTests[mu.Dir]}}, widerSuites[mu.Dir]...) {
		if l.fast && i > 0 && slow(s) {
			continue
		}
		p, err := l.program(ctx, s)
		if err != nil {
			return "", err
		}
		tests, limit := p.concerned(mu.id)
		if len(tests) == 0 {
			continue
		}
		by, _, caught := l.run(ctx, p, tests, limit, variable+"="+mu.id)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if caught {
			return by, nil
		}
		l.progress("%s: no notice in %s of %s", mu.Name, s.Dir, strings.Join(tests, " "))
	}
	return "", nil
}
