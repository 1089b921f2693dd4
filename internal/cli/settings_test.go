// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/internal/command"
)

// O02: flag, environment, credentials, project file, in this order.
func TestFindServer_TheNearerSettingWins(t *testing.T) {
	for _, tc := range []struct {
		name                      string
		flag, env, saved, project bool
		want                      string
	}{
		{"all", true, true, true, true, "https://flag:1"},
		{"no flag", false, true, true, true, "https://env:1"},
		{"no environment", false, false, true, true, "https://saved:1"},
		{"project alone", false, false, false, true, "https://project:1"},
		{"flag over project", true, false, false, true, "https://flag:1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := newUser(t)
			if tc.project {
				write(t, projectFile, `server = "https://project:1"`)
			}
			if tc.saved {
				u.saveCredentials("https://saved:1", "/dev/null", "nfk_saved")
			}
			if tc.env {
				u.env["NIXFLEET_SERVER"] = "https://env:1"
			}
			var words []string
			if tc.flag {
				words = append(words, "--server", "https://flag:1")
			}
			if got := u.server(words...); got.URL != tc.want {
				t.Errorf("server %q, want %q", got.URL, tc.want)
			}
		})
	}
}

// server returns what findServer finds with these flags.
func (u *user) server(words ...string) server {
	u.t.Helper()
	a := &app{Line: command.New(command.Invocation{Env: func(k string) string { return u.env[k] }, Stdin: strings.NewReader("")})}
	if err := a.root().PersistentFlags().Parse(words); err != nil {
		u.t.Fatal(err)
	}
	s, err := a.findServer()
	if err != nil {
		u.t.Fatal(err)
	}
	return s
}

// E09: a saved key is used only for the control plane that it was saved for.
// Another one is not called, since there is no key for it.
func TestSavedKey_GoesToItsOwnServerOnly(t *testing.T) {
	own, other := newPlane(t), newPlane(t)
	u := newUser(t)
	u.saveCredentials(own.URL, own.ca, "nfk_saved")
	u.mustRun(command.ExitDone, "machine", "list")
	if !slices.Equal(own.keys, []string{"nfk_saved"}) {
		t.Fatalf("own server saw the keys %q", own.keys)
	}
	for name, words := range map[string][]string{
		"flag":        {"--server", other.URL, "--ca", other.ca, "machine", "list"},
		"other name":  {"--server", strings.Replace(own.URL, "127.0.0.1", "localhost", 1), "machine", "list"},
		"environment": {"machine", "list"},
	} {
		u.env["NIXFLEET_SERVER"] = ""
		if name == "environment" {
			u.env["NIXFLEET_SERVER"], u.env["NIXFLEET_CA"] = other.URL, other.ca
		}
		if r := u.mustRun(command.ExitError, words...); !strings.Contains(r.stderr, "no API key for") {
			t.Errorf("%s: stderr %q", name, r.stderr)
		}
	}
	write(t, projectFile, fmt.Sprintf("server = %q\nca = %q\n", other.URL, other.ca))
	u.env = map[string]string{"HOME": u.home}
	u.mustRun(command.ExitDone, "machine", "list") // a project file does not send a saved key elsewhere
	if len(other.keys) > 0 || len(own.keys) != 2 {
		t.Errorf("the other server was called with %q; own %d times, want 2", other.keys, len(own.keys))
	}
	// A key that is given for this call is sent where the call goes.
	u.env["NIXFLEET_API_KEY"] = "nfk_env"
	u.mustRun(command.ExitDone, "--server", other.URL, "--ca", other.ca, "machine", "list")
	if !slices.Equal(other.keys, []string{"nfk_env"}) {
		t.Errorf("the other server saw the keys %q, want the one of the environment", other.keys)
	}
}

// The CA of one control plane is not used to trust another.
func TestSavedCA_IsForItsOwnServerOnly(t *testing.T) {
	u := newUser(t)
	write(t, "ca.pem", "saved CA")
	u.saveCredentials("https://saved:1", "ca.pem", "nfk_saved")
	if s := u.server("--server", "https://other:1"); s.CA != nil || s.Key != "" {
		t.Errorf("another server gets CA %q and key %q", s.CA, s.Key)
	}
	if s := u.server(); string(s.CA) != "saved CA" || s.Key != "nfk_saved" {
		t.Errorf("own server gets CA %q and key %q", s.CA, s.Key)
	}
	u.env["NIXFLEET_CA"] = "missing.pem"
	if s := u.server("--ca", ""); s.CA != nil {
		t.Errorf("--ca '' gives %q, want the system's CAs", s.CA)
	}
}

// O02: a flag counts when it was given, also with an empty or a default value.
func TestReleaseOptions_FlagBeatsProjectAlsoWithTheDefault(t *testing.T) {
	u := newUser(t)
	write(t, projectFile, `
fleet = "test"
line = "staging"
flake = "hosts"
[cache]
url = "https://cache.example.org"
push = "s3://bucket"
publicKeys = ["a:b"]
[release]
confirmWindow = "10m"
revertWindow = "0s"
`)
	fill := func(words ...string) createOptions {
		t.Helper()
		a := &app{Line: command.New(command.Invocation{Env: func(k string) string { return u.env[k] }})}
		var o createOptions
		c := a.releaseCreateCmd()
		c.RunE = nil
		if err := c.ParseFlags(words); err != nil {
			t.Fatal(err)
		}
		f := c.Flags()
		o.line, _ = f.GetString("line")
		o.push, _ = f.GetString("push")
		o.flake, _ = f.GetString("flake")
		o.confirm, _ = f.GetDuration("confirm-window")
		o.revert, _ = f.GetDuration("revert-window")
		o.cacheKey, _ = f.GetStringArray("cache-key")
		o.keys.Files, _ = f.GetStringArray("sign-key")
		o.given = f.Changed
		o, err := a.fill(o)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	type picked struct {
		Line, Push      string
		Confirm, Revert time.Duration
		Keys            []string
	}
	for _, tc := range []struct {
		words string
		want  picked
	}{
		{"", picked{"staging", "s3://bucket", 10 * time.Minute, 0, []string{"a:b"}}},
		{"--line main --confirm-window 5m", picked{"main", "s3://bucket", 5 * time.Minute, 0, []string{"a:b"}}},
		{"--push= --cache-key c:d", picked{"staging", "", 10 * time.Minute, 0, []string{"c:d"}}},
		{"--revert-window 24h", picked{"staging", "s3://bucket", 10 * time.Minute, 24 * time.Hour, []string{"a:b"}}},
	} {
		o := fill(strings.Fields(tc.words)...)
		if d := cmp.Diff(tc.want, picked{o.line, o.push, o.confirm, o.revert, o.cacheKey}); d != "" {
			t.Errorf("%q (-want +got):\n%s", tc.words, d)
		}
		if o.expires != 365*24*time.Hour || o.fleetID != "test" || !strings.HasSuffix(o.flake, "/hosts") {
			t.Errorf("%q: expires %s, fleet %q, flake %q", tc.words, o.expires, o.fleetID, o.flake)
		}
	}
	u.env["NIXFLEET_SIGN_KEY"] = "env.sec"
	for want, o := range map[string]createOptions{"env.sec": fill(), "flag.sec": fill("--sign-key", "flag.sec")} {
		a := &app{Line: command.New(command.Invocation{Env: func(k string) string { return u.env[k] }})}
		if _, err := a.signers(t.Context(), o); err == nil || !strings.Contains(err.Error(), "open "+want) {
			t.Errorf("signs with %v, want the key in %s", err, want)
		}
	}
}

// O08: an invalid file is an error that names it; it is never ignored.
func TestSettings_ABrokenFileIsAnError(t *testing.T) {
	for _, tc := range []struct{ name, file, text, want string }{
		{"project, unknown", "nixfleet.toml", "sever = \"x\"", "unknown setting sever"},
		{"project, syntax", "nixfleet.toml", "server =", "nixfleet.toml"},
		{"project, duration", "nixfleet.toml", "[release]\nexpires = \"soon\"", "nixfleet.toml"},
		{"credentials, unknown", ".config/nixfleet/credentials.toml", "kee = \"x\"", "unknown setting kee"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := newUser(t).of(newPlane(t))
			file := tc.file
			if strings.HasPrefix(file, ".config") {
				file = u.home + "/" + file
			}
			write(t, file, tc.text)
			if r := u.mustRun(command.ExitError, "machine", "list"); !strings.Contains(r.stderr, tc.want) {
				t.Errorf("stderr %q, want %q in it", r.stderr, tc.want)
			}
		})
	}
}
