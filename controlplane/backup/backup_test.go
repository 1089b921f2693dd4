// SPDX-License-Identifier: AGPL-3.0-only

package backup_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/controlplane/backup"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const passphrase = "correct horse battery"

// newSource is a control plane's state with keys and a database.
func newSource(t *testing.T) backup.Source {
	t.Helper()
	dir := t.TempDir()
	if _, err := pki.Load(dir, []string{"localhost"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "nixfleet.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return backup.Source{Store: st, StateDir: dir, Version: "1.2", Now: time.UnixMilli(1_900_000_000_000), Passphrase: passphrase}
}

func write(t *testing.T, s backup.Source) (file string, m backup.Manifest) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "backup")
	m, err := backup.Write(t.Context(), s, file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	return file, m
}

// files are the contents of a folder.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func target(dir, secret string) backup.Target {
	return backup.Target{StateDir: dir, Database: filepath.Join(dir, "nixfleet.db"), Passphrase: secret}
}

func TestBackup_BringsKeysAndDatabaseAndHidesThem(t *testing.T) {
	s := newSource(t)
	file, m := write(t, s)
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := files(t, s.StateDir)
	for _, hidden := range []string{"PRIVATE KEY", want["epoch.key"], "SQLite format"} {
		if strings.Contains(string(sealed), hidden) {
			t.Errorf("the sealed backup shows %q", hidden)
		}
	}
	dir := t.TempDir()
	if got, err := backup.Restore(t.Context(), file, target(dir, passphrase)); err != nil || got.CreatedAt != m.CreatedAt || len(got.Files) != 6 {
		t.Fatalf("%+v, %v", got, err)
	}
	got := files(t, dir)
	for _, key := range []string{"server-ca.key.pem", "agent-ca.key.pem", "epoch.key", "tickets.key", "server.key.pem"} {
		if got[key] == "" || got[key] != want[key] {
			t.Errorf("%s is not what it was", key)
		}
	}
	if !strings.HasPrefix(got["nixfleet.db"], "SQLite format") || len(got) != 6 {
		t.Errorf("restored %d files", len(got))
	}
	for _, wrong := range []string{"", passphrase + "!"} {
		empty := t.TempDir()
		if _, err := backup.Restore(t.Context(), file, target(empty, wrong)); fleet.ErrorCode(err) != fleet.Invalid || len(files(t, empty)) > 0 {
			t.Errorf("passphrase %q: %v", wrong, err)
		}
	}
}

// A restore that was interrupted before the database was in its place is done again;
// one beside other keys or a database changes nothing.
func TestRestore_GoesOnAndNeverReplaces(t *testing.T) {
	s := newSource(t)
	file, _ := write(t, s)
	for name, tc := range map[string]struct {
		have map[string]string
		want fleet.Code
	}{
		"interrupted": {map[string]string{"server-ca.key.pem": files(t, s.StateDir)["server-ca.key.pem"]}, ""},
		"another key": {map[string]string{"agent-ca.key.pem": "another"}, fleet.Conflict},
		"a database":  {map[string]string{"nixfleet.db": "a database"}, fleet.Conflict},
	} {
		dir := t.TempDir()
		for f, text := range tc.have {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := backup.Restore(t.Context(), file, target(dir, passphrase))
		if (err == nil) != (tc.want == "") || err != nil && fleet.ErrorCode(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
		got := files(t, dir)
		for f, text := range tc.have {
			if got[f] != text {
				t.Errorf("%s: %s was replaced", name, f)
			}
		}
		if tc.want != "" && len(got) > len(tc.have) {
			t.Errorf("%s: it left %d files", name, len(got))
		}
	}
}

// Whatever becomes of the file: it restores what was backed up, or nothing at all.
func TestRestore_TakesAWholeFileOrNothing(t *testing.T) {
	for name, secret := range map[string]string{"sealed": passphrase, "without keys": ""} {
		t.Run(name, func(t *testing.T) {
			s := newSource(t)
			s.Passphrase = secret
			file, _ := write(t, s)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole := t.TempDir()
			if _, err := backup.Restore(t.Context(), file, target(whole, secret)); err != nil {
				t.Fatal(err)
			}
			want := files(t, whole)
			check := func(t testing.TB, bad []byte) {
				damaged := filepath.Join(t.TempDir(), "damaged")
				if err := os.WriteFile(damaged, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				_, err := backup.Restore(t.Context(), damaged, target(dir, secret))
				if got := files(t, dir); err == nil && !maps.Equal(got, want) || err != nil && len(got) > 0 {
					t.Fatalf("%v, and %d files", err, len(got))
				}
				if err == nil && secret != "" {
					t.Fatal("a sealed backup that was altered is accepted")
				}
			}
			rapid.Check(t, func(rt *rapid.T) {
				bad := append([]byte{}, good...)
				if rapid.Bool().Draw(rt, "cut") {
					bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(rt, "to")]
				} else {
					bad[rapid.IntRange(0, len(bad)-1).Draw(rt, "at")] ^= byte(rapid.IntRange(1, 255).Draw(rt, "by"))
				}
				check(t, bad)
			})
		})
	}
}
