// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// figuresOf writes the files of a folder of figures and runs the program on it.
func figuresOf(t *testing.T, change map[string]string) (code int, f figures, complaint string) {
	t.Helper()
	dir := t.TempDir()
	dead := `[{"Path":"github.com/arcanesys/nixfleet/internal/testbed","Funcs":[{"Name":"Require"}]}]`
	files := map[string]string{
		"sizes.json": `{"maxFileLines":500,"maxFuncLines":60,"imports":{"internal/agent":9}}`, "words.json": "null", "hints.json": "[]",
		"skipped.json": `[{"package":"nix","test":"eval","reason":"no tree"}]`, "dead.json": dead, "dead-tests.json": "[]",
	}
	for name, text := range change {
		files[name] = text
	}
	for name, text := range files {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, complain strings.Builder
	code = run([]string{"-figures", dir}, strings.NewReader(""), &out, &complain, false)
	if out.Len() > 0 {
		if err := json.Unmarshal([]byte(out.String()), &f); err != nil || strings.Count(out.String(), "\n") != 1 {
			t.Fatalf("it prints %q: %v", out.String(), err)
		}
	}
	return code, f, complain.String()
}

func TestFigures_AreOneLineAndHoldTheirBounds(t *testing.T) {
	code, f, complaint := figuresOf(t, nil)
	if code != 0 || f.Imports["internal/agent"] != 9 || len(f.Skipped) != 1 || f.DeadCode != 0 || f.MaxFileLines != 500 {
		t.Errorf("exit code %d, %+v\n%s", code, f, complaint)
	}
	for name, tc := range map[string]struct{ file, text, says string }{
		"a retired word":                  {"words.json", `["a.go:1: x"]`, "retiredWords is 1"},
		"a dead hint":                     {"hints.json", `["README.md: nixfleet fly"]`, "deadHints is 1"},
		"a long file":                     {"sizes.json", `{"maxFileLines":501,"maxFuncLines":60}`, "maxFileLines is 501"},
		"a long function":                 {"sizes.json", `{"maxFileLines":500,"maxFuncLines":61}`, "maxFuncLines is 61"},
		"test support that no test calls": {"dead-tests.json", `[{"Path":"github.com/arcanesys/nixfleet/internal/testbed","Funcs":[{"Name":"Require"}]}]`, "deadcode is 1"},
		"product code that tests call only": {"dead.json",
			`[{"Path":"github.com/arcanesys/nixfleet/api","Funcs":[{"Name":"Client.Info"}]}]`, "deadcode is 1"},
		"a step that left nothing": {"hints.json", "", "hints.json"},
	} {
		if code, _, complaint := figuresOf(t, map[string]string{tc.file: tc.text}); code != exitFailed || !strings.Contains(complaint, tc.says) {
			t.Errorf("%s: exit code %d, it says %q", name, code, complaint)
		}
	}
}
