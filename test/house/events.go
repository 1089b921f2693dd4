// SPDX-License-Identifier: MIT

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const module = "github.com/arcanesys/nixfleet/"

// event is a line of `go test -json`: of a test, of a package (no Test), or of a
// build (no Package).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
}

// report is what became of it all.
type report struct {
	skips    []skip
	failures []string
}

// test is one that began; its result is the Action that ended it.
type test struct {
	name   string
	output strings.Builder
	result string
}

// pack is a package that has begun and not ended.
type pack struct {
	output strings.Builder
	tests  []*test // in the order of their beginning, so parents are before their subtests
}

func (p *pack) test(name string) *test {
	for i := len(p.tests) - 1; i >= 0; i-- {
		if p.tests[i].name == name {
			return p.tests[i]
		}
	}
	p.tests = append(p.tests, &test{name: name})
	return p.tests[len(p.tests)-1]
}

// reader follows the packages.
type reader struct {
	report
	out     io.Writer
	running map[string]*pack
	ended   int
}

// read reads to the end, and prints what is to be seen as soon as it is known.
func read(in io.Reader, out io.Writer) (report, error) {
	r := &reader{out: out, running: map[string]*pack{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			r.line(line)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r.report, fmt.Errorf("read events: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.running)) {
		r.show(r.running[name])
		r.failures = append(r.failures, short(name)+" did not end")
	}
	if r.ended == 0 {
		r.failures = append(r.failures, "no package was tested")
	}
	return r.report, nil
}

func short(pkg string) string { return strings.TrimPrefix(pkg, module) }

func (r *reader) line(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		r.text(line)
		return
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Action == "build-fail":
		r.failures = append(r.failures, e.ImportPath+" does not build")
	case e.Package == "":
		r.text(line)
	case e.Test != "":
		r.test(r.pack(e.Package), e)
	default:
		r.packageEvent(e)
	}
}

func (r *reader) pack(name string) *pack {
	p := r.running[name]
	if p == nil {
		p = &pack{}
		r.running[name] = p
	}
	return p
}

func (r *reader) test(p *pack, e event) {
	t := p.test(e.Test)
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip", "bench":
		t.result = e.Action
	}
	if e.Action == "skip" {
		r.skips = append(r.skips, skip{short(e.Package), e.Test, t.message()})
	}
}

func (r *reader) packageEvent(e event) {
	p := r.pack(e.Package)
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
		return
	case "fail":
		r.show(p)
		r.failures = append(r.failures, short(e.Package)+" failed")
	case "pass", "skip": // skip: it has no tests
		for l := range strings.Lines(p.output.String()) {
			if strings.HasPrefix(l, "ok  \t") || strings.HasPrefix(l, "?   \t") || strings.HasPrefix(l, "\t") {
				fmt.Fprint(r.out, l)
			}
		}
	default:
		return
	}
	delete(r.running, e.Package)
	r.ended++
}

// show prints what go test does of a package that failed: the tests that failed or
// were cut short, then what the package itself said. The words of a crash or a race
// may stand under a test that has passed.
func (r *reader) show(p *pack) {
	for _, t := range p.tests {
		text := t.output.String()
		ended := t.result == "pass" || t.result == "skip" || t.result == "bench"
		if ended && !strings.Contains(text, "DATA RACE") && !strings.Contains(text, "panic:") && !strings.Contains(text, "fatal error:") {
			continue
		}
		head, rest := t.lines()
		if t.result == "" {
			head = fmt.Sprintf("--- FAIL: %s (did not end)\n", t.name)
		}
		fmt.Fprint(r.out, head, rest)
	}
	fmt.Fprint(r.out, p.output.String())
}

// lines are the line with the result, and the others but those that follow a run.
func (t *test) lines() (head, rest string) {
	var others strings.Builder
	for l := range strings.Lines(t.output.String()) {
		word := strings.TrimLeft(l, " ")
		switch {
		case strings.HasPrefix(word, "=== "):
		case strings.HasPrefix(word, "--- "):
			head = l
		default:
			others.WriteString(l)
		}
	}
	return head, others.String()
}

var place = regexp.MustCompile(`^[\w.-]+\.go:\d+: ?`)

// message is what a test says of its skip, on one line.
func (t *test) message() string {
	_, rest := t.lines()
	var said []string
	for l := range strings.Lines(rest) {
		if l = strings.TrimSpace(l); l != "" {
			said = append(said, place.ReplaceAllString(l, ""))
		}
	}
	return strings.Join(said, "; ")
}

var (
	tapSkip  = regexp.MustCompile(`^ok\b(?: \d+)?(?: -)? (.*?) ?# SKIP:? ?(.*)$`)
	bareSkip = regexp.MustCompile(`^(?:# )?SKIP:? (.*)$`)
)

// text takes a line of a check that is no Go test.
func (r *reader) text(line string) {
	fmt.Fprint(r.out, line)
	line = strings.TrimSpace(line)
	if m := tapSkip.FindStringSubmatch(line); m != nil {
		r.skips = append(r.skips, skip{"nix", name(m[1]), m[2]})
	} else if m := bareSkip.FindStringSubmatch(line); m != nil {
		r.skips = append(r.skips, skip{"nix", name(m[1]), m[1]})
	} else if strings.HasPrefix(line, "not ok") {
		r.failures = append(r.failures, line)
	}
}

// name has no spaces, as those of Go's subtests.
func name(text string) string { return strings.Join(strings.Fields(text), "_") }
