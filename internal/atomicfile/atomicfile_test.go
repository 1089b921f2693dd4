// SPDX-License-Identifier: MIT

package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWrite_ReplacesAFileAndItsModeAndLeavesNothingElse(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	name := filepath.Join(t.TempDir(), "journal.json")
	for _, mode := range []fs.FileMode{0o600, 0o644} {
		if err := atomicfile.Write(name, []byte(mode.String()), mode); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		info, statErr := os.Stat(name)
		if err != nil || statErr != nil || string(b) != mode.String() || info.Mode() != mode {
			t.Errorf("%s: read %q, %v, %v", mode, b, err, info)
		}
	}
	if got := names(t, filepath.Dir(name)); len(got) != 1 {
		t.Errorf("the folder holds %v", got)
	}
}

// A12: what cannot be written leaves the old file, and nothing beside it.
func TestWrite_ThatFailsLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "journal.json")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(name, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(name, []byte("new"), 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "journal.json" {
		t.Errorf("the folder holds %v", got)
	}
}

func TestCreate_NeverReplaces(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key.pem")
	if err := atomicfile.Create(name, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Create(name, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second Create: %v, want fs.ErrExist", err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "first" {
		t.Errorf("the file has %q, %v", b, err)
	}
	if got := names(t, filepath.Dir(name)); len(got) != 1 {
		t.Errorf("the folder holds %v", got)
	}
}

func TestRemove_OfNothingIsNoError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a")
	if err := atomicfile.Remove(name); err != nil {
		t.Error(err)
	}
	if err := atomicfile.Write(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Remove(name); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(name)); len(got) != 0 {
		t.Errorf("the folder holds %v", got)
	}
}
