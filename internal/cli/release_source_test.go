// SPDX-License-Identifier: MIT

package cli

import (
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// A secret key in a flake's source would be copied to the Nix store, mode 0444.
// It is refused before nix runs.
func TestReleaseCreate_RefusesASourceWithASecretKey(t *testing.T) {
	key, err := trust.Generate(rand.Reader, "example.org-root-1")
	if err != nil {
		t.Fatal(err)
	}
	noKey := make([]byte, 64)
	if _, err := rand.Read(noKey); err != nil {
		t.Fatal(err)
	}
	secret := key.Encode() + "\n"
	for name, tc := range map[string]struct {
		files map[string]string
		git   []string // added to a git repository; nil: there is none
		flags []string
		want  string // the file that is named; "" if the source is not refused
	}{
		"a folder with a key":               {files: map[string]string{"trust/keys/root.sec": secret}, want: "trust/keys/root.sec"},
		"a key without a line end":          {files: map[string]string{"k": key.Encode()}, want: "in the Nix store: k\n"},
		"a key in a Nix file":               {files: map[string]string{"x.nix": "{\n  key = \"" + key.Encode() + "\";\n}\n"}, want: "x.nix"},
		"a key after a byte order mark":     {files: map[string]string{"k": "\r\n \xef\xbb\xbf" + secret}, want: "in the Nix store: k\n"},
		"a folder below the flake":          {files: map[string]string{"hosts/x": "", "k": secret}, flags: []string{"--flake", "hosts"}, want: "in the Nix store: k\n"},
		"path:":                             {files: map[string]string{"k": secret}, git: []string{"flake.nix"}, flags: []string{"--flake", "path:."}, want: "in the Nix store: k\n"},
		"a repository with a key":           {files: map[string]string{"k": secret}, git: []string{"flake.nix", "k"}, want: "in the Nix store: k\n"},
		"a repository that leaves it out":   {files: map[string]string{"k": secret}, git: []string{"flake.nix"}},
		"public keys only":                  {files: map[string]string{"k": key.PublicKey().String(), "l": "not-a-key:" + base64.StdEncoding.EncodeToString(noKey)}},
		"an older release, nothing is read": {files: map[string]string{"k": secret}, flags: []string{"--from", "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			write(t, "flake.nix", "{ }")
			for name, text := range tc.files {
				write(t, name, text)
			}
			if tc.git != nil {
				git(t, "init", "-q")
				git(t, append([]string{"add", "-f"}, tc.git...)...)
			}
			called := stubNix(t)
			r := u.mustRun(command.ExitError, append([]string{"release", "create"}, tc.flags...)...)
			if tc.want == "" {
				if !strings.Contains(r.stderr, "no key signs the release") {
					t.Errorf("stderr %q, want the next mistake", r.stderr)
				}
				return
			}
			for _, want := range []string{"holds secret keys", tc.want, "hint: move them out"} {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("stderr %q, want %q in it", r.stderr, want)
				}
			}
			if _, err := os.Stat(called); err == nil {
				t.Error("nix was called")
			}
			if strings.Contains(r.stderr, key.Encode()[len(key.Name())+1:]) {
				t.Errorf("stderr has the key: %q", r.stderr)
			}
		})
	}
}

// stubNix puts a nix into PATH that does nothing but make a file, and returns the
// file's name.
func stubNix(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	called := filepath.Join(dir, "called")
	if err := os.WriteFile(filepath.Join(dir, "nix"), []byte("#!/bin/sh\n: > "+called+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return called
}

func git(t *testing.T, args ...string) {
	t.Helper()
	if res, err := proc.Run(t.Context(), proc.Cmd{Path: "git", Args: args}); err != nil {
		t.Fatalf("git %s: %v\n%s", args, err, res.Stderr)
	}
}

// `trust init` in a flake's source keeps git from the keys and says so; elsewhere it
// does neither.
func TestTrustInit_KeepsKeysOutOfAFlake(t *testing.T) {
	for name, tc := range map[string]struct {
		file    string // beside the fleet's folder
		git     bool
		ignored string // what keys/.gitignore had before
		warning string
	}{
		"elsewhere":                  {},
		"below a flake":              {file: "flake.nix", warning: "is no git repository"},
		"in a repository":            {git: true, warning: "lie in the git repository"},
		"in a repository's flake":    {file: "flake.nix", git: true, warning: "lie in the git repository"},
		"beside another ignore file": {git: true, ignored: "*.old", warning: "lie in the git repository"},
		"beside a right ignore file": {git: true, ignored: "*.sec\n", warning: "lie in the git repository"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			if tc.file != "" {
				write(t, tc.file, "{ }")
			}
			if tc.git {
				git(t, "init", "-q")
			}
			if tc.ignored != "" {
				write(t, "fleet/trust/keys/.gitignore", tc.ignored)
			}
			r := u.mustRun(command.ExitDone, "--json", "trust", "init", "--fleet", "test", "fleet/trust")
			warned := strings.Contains(r.stderr, "warning: ")
			if warned != (tc.warning != "") || !strings.Contains(r.stderr, tc.warning) {
				t.Errorf("stderr %q, want the warning %q", r.stderr, tc.warning)
			}
			_, err := os.Stat("fleet/trust/keys/.gitignore")
			if (err == nil) != warned || strings.Contains(r.out, "ignoreFile") != warned {
				t.Errorf("ignore file: %v, stdout %q", err, r.out)
			}
			if !tc.git {
				return
			}
			if text := readAll(t, "fleet/trust/keys/.gitignore"); strings.Count(text, "*.sec\n") != 1 || !strings.HasPrefix(text, tc.ignored) {
				t.Errorf("ignore file %q", text)
			}
			git(t, "add", ".")
			res, err := proc.Run(t.Context(), proc.Cmd{Path: "git", Args: []string{"ls-files"}})
			if err != nil || strings.Contains(string(res.Stdout), ".sec") || !strings.Contains(string(res.Stdout), "fleet/trust/root.json") {
				t.Errorf("git tracks %q, %v", res.Stdout, err)
			}
		})
	}
}
