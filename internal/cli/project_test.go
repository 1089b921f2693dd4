// SPDX-License-Identifier: MIT

package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/command"
)

func TestPlace_IsTheUsersOrRoots(t *testing.T) {
	const alice, mallory = 1000, 1001
	for name, tc := range map[string]struct {
		at   place
		want string
	}{
		"own":                             {place{alice, alice, 0o644, 0o755}, ""},
		"root's":                          {place{0, 0, 0o644, 0o755}, ""},
		"own link to root's":              {place{alice, 0, 0o444, 0o755}, ""},
		"own, group may write":            {place{alice, alice, 0o664, 0o775}, ""},
		"own, in /tmp":                    {place{alice, alice, 0o644, fs.ModeSticky | 0o777}, ""},
		"somebody's":                      {place{mallory, mallory, 0o644, 0o755}, "it belongs to user 1001"},
		"somebody's, in /tmp":             {place{mallory, mallory, 0o644, fs.ModeSticky | 0o777}, "it belongs to user 1001"},
		"somebody's link to own":          {place{mallory, alice, 0o644, 0o755}, "it belongs to user 1001"},
		"own link to somebody's":          {place{alice, mallory, 0o644, 0o755}, "a link to a file of user 1001"},
		"own, everybody may write":        {place{alice, alice, 0o666, 0o755}, "everybody may write it"},
		"own, in a folder of everybody's": {place{alice, alice, 0o644, 0o777}, "everybody may write into its folder"},
	} {
		if got := tc.at.fault([]int{alice, 0}); got == "" != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q in it", name, got, tc.want)
		}
	}
}

func TestTrustedUsers_IncludeWhoBecameRoot(t *testing.T) {
	u := newUser(t)
	u.env["SUDO_UID"] = "1000"
	a := &app{Line: command.New(command.Invocation{Env: func(k string) string { return u.env[k] }})}
	if got := a.trustedUsers(0); len(got) != 3 || got[2] != 1000 {
		t.Errorf("root by sudo trusts %v", got)
	}
	if got := a.trustedUsers(1001); len(got) != 2 {
		t.Errorf("a user trusts %v: an environment is not proof", got)
	}
}

// A project file that is not read is named, with what to do: it is neither used
// nor passed over, since then a release would go to the default line.
func TestProject_OfSomebodyElseIsNamedAndNotRead(t *testing.T) {
	p := newPlaneOf(t, "own")
	spoil := map[string]func(file string) error{
		"its mode":          func(file string) error { return os.Chmod(file, 0o666) },
		"its folder's mode": func(file string) error { return os.Chmod(filepath.Dir(file), 0o777) },
	}
	if os.Geteuid() == 0 {
		spoil["its owner"] = func(file string) error { return os.Chown(file, 65534, 65534) }
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			dir, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "fleet", projectFile)
			write(t, file, "server = \""+p.URL+"\"\nca = \"ca.pem\"\n")
			write(t, filepath.Join(dir, "fleet", "ca.pem"), readAll(t, p.ca))
			u.env["NIXFLEET_API_KEY"] = p.bound()
			if err := spoil(file); err != nil {
				t.Fatal(err)
			}
			write(t, "fleet/below/x", "")
			t.Chdir("fleet/below")
			p.paths = nil
			r := u.mustRun(command.ExitError, "machine", "list")
			if !strings.Contains(r.stderr, file+" is not read: ") || !strings.Contains(r.stderr, "hint: to use it all the same, give --project "+file) {
				t.Errorf("stderr %q", r.stderr)
			}
			if len(p.paths) > 0 {
				t.Errorf("the control plane was called: %q", p.paths)
			}
			u.mustRun(command.ExitDone, "--project", "../"+projectFile, "machine", "list") // its CA lies beside it
			if r := u.mustRun(command.ExitError, "--project", "", "machine", "list"); !strings.Contains(r.stderr, "no control plane is named") {
				t.Errorf("without a project: stderr %q", r.stderr)
			}
			u.mustRun(command.ExitDone, "--project", "", "--server", p.URL, "--ca", p.ca, "machine", "list")
			if r := u.mustRun(command.ExitError, "--project", "missing.toml", "machine", "list"); !strings.Contains(r.stderr, "missing.toml") {
				t.Errorf("a missing project: stderr %q", r.stderr)
			}
		})
	}
}

func TestProject_ALinkToNoFileIsAnError(t *testing.T) {
	u := newUser(t)
	if err := os.Symlink("nowhere", projectFile); err != nil {
		t.Fatal(err)
	}
	if r := u.mustRun(command.ExitError, "machine", "list"); !strings.Contains(r.stderr, projectFile+" is a link to no file") {
		t.Errorf("stderr %q", r.stderr)
	}
}
