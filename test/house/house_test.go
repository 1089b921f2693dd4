// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// house runs the program and returns its exit code, and what it prints.
func house(t *testing.T, list, input string, strict bool) (code int, out string, skipped []skip) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "skips.txt")
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	var printed, complaint strings.Builder
	code = run([]string{"-skips", file, "-skipped", filepath.Join(dir, "skipped.json")}, strings.NewReader(input), &printed, &complaint, strict)
	if data, err := os.ReadFile(filepath.Join(dir, "skipped.json")); err == nil {
		if err := json.Unmarshal(data, &skipped); err != nil || skipped == nil {
			t.Errorf("skipped.json is %s: %v", data, err)
		}
	}
	return code, printed.String() + complaint.String(), skipped
}

// goTest is what `go test -json` says of a module of these files.
func goTest(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module " + strings.TrimSuffix(module, "/") + "\ngo 1.26\n"
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := proc.Cmd{Path: "go", Args: []string{"test", "-json", "-vet=off", "./..."}, Dir: dir, Env: append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")}
	res, _ := proc.Run(t.Context(), c) // its exit code is not what is tested here
	if len(res.Stdout) == 0 {
		t.Fatalf("go test says nothing: %s", res.Stderr)
	}
	return string(res.Stdout)
}

const good = "package a\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Log(\"words\") }\n"

func TestHouse_JudgesWhatGoTestReallySays(t *testing.T) {
	for name, tc := range map[string]struct {
		files   map[string]string
		list    string
		code    int
		says    []string
		not     []string
		skipped []skip
	}{
		"all pass": {
			files: map[string]string{"a/a_test.go": good, "none/none.go": "package none"},
			says:  []string{"ok  \tgithub.com/arcanesys/nixfleet/a\t", "?   \tgithub.com/arcanesys/nixfleet/none\t[no test files]\n"},
			not:   []string{"words", "=== RUN", "PASS", "SKIP", "FAIL"}, skipped: []skip{},
		},
		"one of many fails": {
			files: map[string]string{"a/a_test.go": good + "func TestBad(t *testing.T) { t.Run(\"one\", func(t *testing.T) { t.Error(\"wrong\") }) }\n"},
			code:  1,
			says:  []string{"--- FAIL: TestBad", "--- FAIL: TestBad/one", "a_test.go:4: wrong\n", "FAIL\tgithub.com/arcanesys/nixfleet/a\t", "    a failed\n"},
			not:   []string{"words", "=== RUN"}, skipped: []skip{},
		},
		"does not build": {
			files: map[string]string{"a/a_test.go": good, "b/b_test.go": "package b\nvar x = y\n"},
			code:  1,
			says:  []string{"b_test.go:2:9: undefined: y\n", "[build failed]", "ok  \tgithub.com/arcanesys/nixfleet/a", "    b failed\n"}, skipped: []skip{},
		},
		"does not end": {
			files: map[string]string{"a/a_test.go": good + "func TestExit(t *testing.T) { t.Log(\"last\"); panic(\"ouch\") }\n"},
			code:  1, says: []string{"--- FAIL: TestExit", "last", "panic: ouch", "FAIL\tgithub.com/arcanesys/nixfleet/a"}, skipped: []skip{},
		},
		"a skip that nobody knows, under a parent that passes": {
			files: map[string]string{"a/a_test.go": good + "func TestMost(t *testing.T) { t.Run(\"a part\", func(t *testing.T) { t.Skip(\"no nix\\nhere\") }) }\n"},
			code:  1, says: []string{"ok  \t", "SKIP a TestMost/a_part: no nix; here (not in ", "a TestMost/a_part was skipped"},
			skipped: []skip{{"a", "TestMost/a_part", "no nix; here"}},
		},
		"a skip that is known": {
			files:   map[string]string{"a/a_test.go": good + "func TestMost(t *testing.T) { t.Skip() }\n"},
			list:    "# why\n\na\tTestMo*\tit is the wrong day\n",
			says:    []string{"ok  \t", "SKIP a TestMost:  (known: it is the wrong day)\n"},
			skipped: []skip{{"a", "TestMost", "it is the wrong day"}},
		},
		"a skip that is known elsewhere": {
			files: map[string]string{"a/a_test.go": good + "func TestMost(t *testing.T) { t.Skip(\"x\") }\n"},
			list:  "b TestMost it is the wrong day\na TestMos it is the wrong day",
			code:  1, skipped: []skip{{"a", "TestMost", "x"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, skipped := house(t, tc.list, goTest(t, tc.files), true)
			if code != tc.code {
				t.Errorf("exit code %d, want %d\n%s", code, tc.code, out)
			}
			for _, s := range tc.says {
				if !strings.Contains(out, s) {
					t.Errorf("it does not say %q:\n%s", s, out)
				}
			}
			for _, s := range tc.not {
				if strings.Contains(out, s) {
					t.Errorf("it says %q:\n%s", s, out)
				}
			}
			if d := cmp.Diff(tc.skipped, skipped); d != "" {
				t.Errorf("skipped (-want +got):\n%s", d)
			}
		})
	}
}

// passed are the events of a package a in which one test ended in some way.
func passed(how string) string {
	event := func(action, test, output string) string {
		return fmt.Sprintf("{\"Action\":%q,\"Package\":\"%sa\",\"Test\":%q,\"Output\":%q}\n", action, module, test, output)
	}
	return event("start", "", "") + event("run", "TestA", "") + event("output", "TestA", "    a_test.go:1: text\n") + event(how, "TestA", "") +
		event("output", "", "ok  \ta\t0.1s\n") + event("pass", "", "")
}

func TestHouse_TakesSkipsAsFailuresOnlyInCI(t *testing.T) {
	if code, out, _ := house(t, "", passed("skip"), false); code != 0 || !strings.Contains(out, "SKIP a TestA: text (not in ") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out, _ := house(t, "", passed("skip"), true); code != 1 {
		t.Errorf("in CI: exit code %d\n%s", code, out)
	}
}

func TestHouse_JudgesTheOtherChecksByTheirLines(t *testing.T) {
	for line, tc := range map[string]struct {
		code    int
		skipped []skip
	}{
		"ok 1 - eval # SKIP NIXPKGS is not set":   {1, []skip{{"nix", "eval", "NIXPKGS is not set"}}},
		"ok - backup: borg # SKIP no borg here":   {1, []skip{{"nix", "backup:_borg", "no borg here"}}},
		"# SKIP shellcheck is not here":           {1, []skip{{"nix", "shellcheck_is_not_here", "shellcheck is not here"}}},
		"SKIP: the flake was not checked":         {1, []skip{{"nix", "the_flake_was_not_checked", "the flake was not checked"}}},
		"ok 1 - known # SKIP x":                   {0, []skip{{"nix", "known", "it is known"}}},
		"ok 1 - eval modules: a test":             {0, []skip{}},
		"ok - a host that is to SKIP # of no one": {0, []skip{}},
		"# the cause":                           {0, []skip{}},
		"66 passed, 0 failed":                   {0, []skip{}},
		`{"a":"line of JSON that is no event"}`: {0, []skip{}},
		"not ok 3 - eval modules: a test":       {1, []skip{}},
	} {
		code, out, skipped := house(t, "nix known it is known", line+"\n"+passed("pass"), true)
		if d := cmp.Diff(tc.skipped, skipped); code != tc.code || d != "" || !strings.HasPrefix(out, line+"\n") {
			t.Errorf("%s: exit code %d, want %d, skipped (-want +got):\n%s\n%s", line, code, tc.code, d, out)
		}
	}
}

func TestHouse_FailsOfWhatIsCutShort(t *testing.T) {
	whole := passed("pass")
	for name, input := range map[string]string{
		"nothing":               "",
		"go test did not begin": "go: errors parsing go.mod\n",
		"a package has not ended, nor has its last line": whole + strings.TrimSuffix(strings.ReplaceAll(whole[:strings.LastIndex(whole, "{")], "fleet/a", "fleet/b"), "\n"),
	} {
		if code, out, _ := house(t, "", input, false); code != 1 {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	if code, out, _ := house(t, "", whole, false); code != 0 {
		t.Errorf("whole: exit code %d\n%s", code, out)
	}
}

// A race is told of under whichever test runs at that moment.
func TestHouse_ShowsARaceUnderATestThatPassed(t *testing.T) {
	input := strings.ReplaceAll(strings.ReplaceAll(passed("pass"), "a_test.go:1: text", "WARNING: DATA RACE"), `"pass","Package":"`+module+`a","Test":""`, `"fail","Package":"`+module+`a","Test":""`)
	if code, out, _ := house(t, "", input, false); code != 1 || !strings.Contains(out, "DATA RACE") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestHouse_WantsAReasonForEveryKnownSkip(t *testing.T) {
	for _, line := range []string{"a TestA", "a TestA\t", "a"} {
		if code, out, _ := house(t, "# fine\n"+line, passed("pass"), false); code != exitUsage || !strings.Contains(out, "line 2") {
			t.Errorf("%q: exit code %d\n%s", line, code, out)
		}
	}
	known, err := os.ReadFile("../skips.txt")
	if err != nil {
		t.Fatal(err)
	}
	if l, err := parseList(string(known)); err != nil || len(l) == 0 {
		t.Errorf("the list of the repository: %v, %v", l, err)
	}
}
