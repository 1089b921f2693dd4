// SPDX-License-Identifier: AGPL-3.0-only

package program_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// fleetOf starts a control plane with one machine and returns an admin's key.
func fleetOf(t *testing.T, p place) (key string, stop func() (int, string)) {
	t.Helper()
	stop = p.up()
	secret, err := os.ReadFile(filepath.Join(p.dir, "bootstrap-secret"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client(k.Secret).RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}); err != nil {
		t.Fatal(err)
	}
	return k.Secret, stop
}

// E12: a backup that was made while the control plane ran makes it again elsewhere: the
// same keys, operators and machines.
func TestBackup_MakesTheSameControlPlaneElsewhere(t *testing.T) {
	old := newPlace(t)
	key, stop := fleetOf(t, old)
	folder, secret := t.TempDir(), filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(secret, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := run(t.Context(), "backup", "--config", old.config, "--json", "--passphrase-file", secret, "--keep", "1", folder)
	var made struct{ File string }
	if err := json.Unmarshal([]byte(out), &made); code != 0 || err != nil {
		t.Fatalf("backup: code %d, %v, %s%s", code, err, out, stderr)
	}
	ca, err := os.ReadFile(filepath.Join(old.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stop()

	p := newPlace(t)
	if code, _, stderr := run(t.Context(), "restore", "--config", p.config, "--passphrase-file", secret, made.File); code != 0 {
		t.Fatalf("restore: code %d, %s", code, stderr)
	}
	stop = p.up()
	again, err := os.ReadFile(filepath.Join(p.dir, "ca.pem"))
	if err != nil || string(again) != string(ca) {
		t.Errorf("the CA is another one: %v", err)
	}
	page, err := p.client(key).Machines(t.Context(), fleet.MachineFilter{}, fleet.PageRequest{})
	if err != nil || len(page.Items) != 1 || page.Items[0].ID != "web-01" {
		t.Errorf("machines: %+v, %v", page.Items, err)
	}
	stop()
	if code, _, stderr := run(t.Context(), "restore", "--config", p.config, "--passphrase-file", secret, made.File); code != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("restored over a database: code %d, %s", code, stderr)
	}
}

// A database whose keys are gone is not started with new ones: no machine would
// accept them.
func TestRun_RefusesADatabaseWithMachinesAndWithoutItsKeys(t *testing.T) {
	for _, file := range []string{"server-ca.key.pem", "agent-ca.key.pem", "epoch.key"} {
		p := newPlace(t)
		_, stop := fleetOf(t, p)
		stop()
		if err := os.Remove(filepath.Join(p.dir, file)); err != nil {
			t.Fatal(err)
		}
		before := names(t, p.dir)
		code, _, stderr := run(t.Context(), "run", "--config", p.config)
		if code != 1 || !strings.Contains(stderr, "knows 1 machines") || !strings.Contains(stderr, file) || !strings.Contains(stderr, "restore") {
			t.Errorf("without %s: code %d, %s", file, code, stderr)
		}
		if after := names(t, p.dir); after != before {
			t.Errorf("without %s: it left\n%s\nwhere there was\n%s", file, after, before)
		}
	}
}

// A control plane that never had a machine makes what it lacks.
func TestRun_MakesKeysForADatabaseWithoutMachines(t *testing.T) {
	p := newPlace(t)
	stop := p.up()
	stop()
	if err := os.Remove(filepath.Join(p.dir, "epoch.key")); err != nil {
		t.Fatal(err)
	}
	p.up()
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "-shm") && !strings.HasSuffix(e.Name(), "-wal") { // SQLite's own, also of a reader
			b.WriteString(e.Name() + "\n")
		}
	}
	return b.String()
}

func TestBackup_SaysWhatIsWrongAndLeavesNothing(t *testing.T) {
	p := newPlace(t)
	_, stop := fleetOf(t, p)
	stop()
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(dir, "backup")
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"neither sealed nor without keys": {[]string{dest}, 2, "--without-keys"},
		"both":                            {[]string{"--without-keys", "--passphrase-file", short, dest}, 2, "--without-keys"},
		"keep of a file":                  {[]string{"--without-keys", "--keep", "3", dest}, 2, "folder"},
		"a short passphrase":              {[]string{"--passphrase-file", short, dest}, 1, "fewer than 12"},
		"a file that exists":              {[]string{"--without-keys", short}, 1, "exists"},
		"a folder that does not":          {[]string{"--without-keys", filepath.Join(dir, "none", "x")}, 1, "no such"},
	} {
		before := names(t, dir)
		code, _, stderr := run(t.Context(), append([]string{"backup", "--config", p.config}, tc.args...)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: code %d, %s", name, code, stderr)
		}
		if after := names(t, dir); after != before {
			t.Errorf("%s: it left %s", name, after)
		}
	}
}
