// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
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

// widerSuites are what a mutant meets that survives the tests of its own package.
var widerSuites = map[string][]suite{
	"internal/trust":         {{Dir: "internal/agent/states"}, {Dir: "test/hostile", Run: judgeTests}},
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
	limit time.Duration
}

// lab compiles suites once, and runs mutants in them.
type lab struct {
	m        *module
	dir      string // of the programs
	overlay  string
	progress func(format string, args ...any)

	mu       sync.Mutex // of programs: one is made at a time
	programs map[suite]*program
	store    sync.Mutex // of the machine's Nix store: tests that change it run alone
}

// program compiles a suite and runs it without a mutant: one that fails so
// cannot judge.
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
	begin := time.Now()
	if by, out, failed := l.run(ctx, p, "-1", 10*time.Minute); failed {
		return nil, fmt.Errorf("the tests of %s fail without a mutant (%s)\n%s", s.Dir, by, out)
	}
	took := time.Since(begin)
	p.limit = 5*took + 30*time.Second
	l.programs[s] = p
	l.progress("%s: its tests pass without a mutant, in %s", s.Dir, took.Round(100*time.Millisecond))
	return p, nil
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// run runs a suite with a mutant and tells which test failed.
func (l *lab) run(ctx context.Context, p *program, id string, limit time.Duration) (by string, out []byte, failed bool) {
	if slices.Contains(storeTests, p.suite.Dir) {
		l.store.Lock()
		defer l.store.Unlock()
	}
	// A property that fails leaves a file beside its test; that of a mutant is not kept.
	left := filepath.Join(l.m.dir, p.suite.Dir, "testdata", "rapid")
	if _, err := os.Stat(left); err != nil {
		defer os.RemoveAll(left)
	}
	args := []string{"-test.failfast", "-test.timeout", limit.String()}
	if p.suite.Run != "" {
		args = append(args, "-test.run", p.suite.Run)
	}
	res, err := proc.Run(ctx, proc.Cmd{
		Path: p.file, Args: args, Dir: filepath.Join(l.m.dir, p.suite.Dir), Env: append(os.Environ(), variable+"="+id), Timeout: limit + 10*time.Second,
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
// caught it; "" if nothing did.
func (l *lab) meet(ctx context.Context, mu mutant) (by string, err error) {
	for _, s := range append([]suite{{Dir: mu.Dir}}, widerSuites[mu.Dir]...) {
		p, err := l.program(ctx, s)
		if err != nil {
			return "", err
		}
		by, _, caught := l.run(ctx, p, mu.id, p.limit)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if caught {
			return by, nil
		}
	}
	return "", nil
}
