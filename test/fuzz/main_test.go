// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// Every target that go test knows is found.
func TestFind_MissesNone(t *testing.T) {
	found, err := find("../..")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{}
	for _, f := range found {
		dir := strings.TrimPrefix(f.dir, "../../")
		names[dir] = append(names[dir], f.name)
	}
	for _, dir := range []string{"fleet", "internal/trust", "api"} {
		res, err := proc.Run(t.Context(), proc.Cmd{Path: "go", Args: []string{"test", "-list", "^Fuzz", "./" + dir}, Dir: "../.."})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(res.Stdout)) {
			if strings.HasPrefix(line, "Fuzz") {
				want = append(want, strings.TrimSpace(line))
			}
		}
		slices.Sort(want)
		slices.Sort(names[dir])
		if len(want) == 0 || !slices.Equal(want, names[dir]) {
			t.Errorf("%s has the targets %v, found are %v", dir, want, names[dir])
		}
	}
}

// A target that fails is counted, and the others run all the same.
func TestRun_CountsWhatFails(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.org/m\n\ngo 1.26\n",
		"a/a_test.go": "package a\n\nimport \"testing\"\n\n" +
			"func FuzzBad(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) { t.Fatal(\"broken\") }) }\n" +
			"func FuzzGood(f *testing.F) { f.Fuzz(func(*testing.T, []byte) {}) }\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out, complain bytes.Buffer
	code := run(t.Context(), []string{"-time", "1s"}, &out, &complain)
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %q\n%s", err, out.String(), complain.String())
	}
	if code != exitFailed || r.Targets != 2 || r.Failed != 1 || !slices.Equal(r.Failing, []string{"./a FuzzBad"}) {
		t.Errorf("exit code %d, %+v\n%s", code, r, complain.String())
	}
	if !strings.Contains(complain.String(), "broken") || !strings.Contains(complain.String(), "2 of 2: ./a FuzzGood") {
		t.Errorf("it printed:\n%s", complain.String())
	}
}
