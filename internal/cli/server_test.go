// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/internal/command"
)

// E09: an API key goes to its own control plane under its own CA, whoever wrote
// the project file that lies here. What is not sent is refused with an error that
// says what, where and what next.
func TestAPIKey_GoesToItsOwnControlPlaneOnly(t *testing.T) {
	own, other := newPlaneOf(t, "own"), newPlaneOf(t, "other")
	public := madeKey + "_" + strings.TrimPrefix(own.URL, "https://")
	localhost := strings.Replace(own.URL, "127.0.0.1", "localhost", 1)
	for name, tc := range map[string]struct {
		key        string
		project    [2]string // server and CA of a project file that lies here
		serverEnv  string
		flags      []string
		sent       bool
		wantStderr []string
	}{
		"bound, own server given":     {key: own.bound(), flags: []string{"--server", own.URL, "--ca", own.ca}, sent: true},
		"bound, own server's project": {key: own.bound(), project: [2]string{own.URL, own.ca}, sent: true},
		"bound, a foreign project": {
			key: own.bound(), project: [2]string{other.URL, other.ca},
			wantStderr: []string{"NIXFLEET_API_KEY", "not sent to " + other.URL, projectFile, "the key is for the control plane at " + own.Listener.Addr().String(), "hint: give --server " + own.URL},
		},
		"bound, another server given": {
			key: own.bound(), flags: []string{"--server", other.URL, "--ca", other.ca}, wantStderr: []string{"not sent to " + other.URL, "--server"},
		},
		"bound, another name": {key: own.bound(), flags: []string{"--server", localhost, "--ca", own.ca}, wantStderr: []string{"not sent to " + localhost}},
		"bound, own server with a foreign CA": {
			key: own.bound(), project: [2]string{own.URL, other.ca},
			wantStderr: []string{"not sent to " + own.URL, "CA: ", projectFile, "another CA is given", "hint: give --ca with that CA"},
		},
		"bound, own server by the system's CAs": {key: own.bound(), project: [2]string{own.URL, ""}, wantStderr: []string{"another CA than the one given"}},
		"bound to the system's CAs, another CA given": {
			key: public, flags: []string{"--server", own.URL, "--ca", own.ca}, wantStderr: []string{"not sent", "another CA is given", "--ca ''"},
		},
		"bound and damaged":   {key: madeKey + "_", flags: []string{"--server", own.URL, "--ca", own.ca}, wantStderr: []string{"NIXFLEET_API_KEY: this API key is damaged"}},
		"older, server given": {key: "nfk_older", flags: []string{"--server", own.URL, "--ca", own.ca}, sent: true},
		"older, server in the environment": {
			key: "nfk_older", serverEnv: own.URL, flags: []string{"--ca", own.ca}, sent: true,
		},
		"older, a project": {
			key: madeKey, project: [2]string{own.URL, own.ca},
			wantStderr: []string{"NIXFLEET_API_KEY", "not sent to " + own.URL, projectFile, "older key", "hint: ", "--server", "NIXFLEET_SERVER"},
		},
		"older, server given, a project's CA": {
			key: madeKey, project: [2]string{own.URL, own.ca}, flags: []string{"--server", own.URL},
			wantStderr: []string{"not sent", projectFile, "names the CA", "hint: ", "--ca"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			if tc.project[0] != "" {
				write(t, projectFile, fmt.Sprintf("server = %q\nca = %q\n", tc.project[0], tc.project[1]))
			}
			u.env["NIXFLEET_API_KEY"], u.env["NIXFLEET_SERVER"] = tc.key, tc.serverEnv
			own.keys, other.keys = nil, nil
			r := u.run(append(tc.flags, "machine", "list")...)
			if len(other.keys) > 0 {
				t.Errorf("the other control plane saw the keys %q", other.keys)
			}
			if sent := len(own.keys) > 0; sent != tc.sent || sent != (r.code == command.ExitDone) {
				t.Errorf("sent %t, exit code %d; want %t\nstderr: %s", sent, r.code, tc.sent, r.stderr)
			}
			secret, _, _ := strings.Cut(tc.key, "_"+own.Listener.Addr().String())
			if tc.sent && !slices.Equal(own.keys, []string{secret}) {
				t.Errorf("its control plane saw %q, want the key alone: %q", own.keys, secret)
			}
			for _, want := range tc.wantStderr {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("stderr %q, want %q in it", r.stderr, want)
				}
			}
			if strings.Contains(r.stderr, "secretsecret") {
				t.Errorf("stderr has the key: %q", r.stderr)
			}
		})
	}
}

// An older key that was saved goes to the server that it was saved for, and under
// the CA that was saved; one from elsewhere does not go to a saved server.
func TestOlderKey_GoesWhereItWasSavedFor(t *testing.T) {
	own := newPlaneOf(t, "own")
	u := newUser(t)
	u.saveCredentials(own.URL, own.ca, madeKey)
	u.mustRun(command.ExitDone, "machine", "list")
	u.env["NIXFLEET_API_KEY"] = "nfk_older"
	if r := u.mustRun(command.ExitError, "machine", "list"); !strings.Contains(r.stderr, "not sent to "+own.URL+", which "+u.home+"/.config/nixfleet/credentials.toml names") {
		t.Errorf("another key: stderr %q", r.stderr)
	}
	delete(u.env, "NIXFLEET_API_KEY")
	u.saveCredentials(own.URL, "/dev/null", madeKey)
	write(t, projectFile, fmt.Sprintf("server = %q\nca = %q\n", own.URL, own.ca))
	if r := u.mustRun(command.ExitError, "machine", "list"); !strings.Contains(r.stderr, projectFile+" names the CA") {
		t.Errorf("a project's CA: stderr %q", r.stderr)
	}
	if !slices.Equal(own.keys, []string{madeKey}) {
		t.Errorf("the control plane saw %q, want the saved key, once", own.keys)
	}
}

// The root that verifies a connection counts, not what the CA file holds besides.
func TestAPIKey_IsNotSentWhenAnotherRootVerifies(t *testing.T) {
	own, evil := newPlaneOf(t, "own"), newPlaneOf(t, "evil")
	u := newUser(t)
	both := readAll(t, own.ca) + readAll(t, evil.ca)
	write(t, "both.pem", both)
	host := evil.Listener.Addr().String()
	u.env["NIXFLEET_API_KEY"] = madeKey + "_" + host + "_" + api.CAHash(own.TLS.Certificates[0].Certificate[0])
	r := u.mustRun(command.ExitError, "--server", evil.URL, "--ca", "both.pem", "machine", "list")
	if len(evil.keys) > 0 || !strings.Contains(r.stderr, "was not sent") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("the other control plane saw %q; stderr %q", evil.keys, r.stderr)
	}
}

// What makes a key binds it to the control plane that made it. The saved one then
// works by itself, and under no other server.
func TestNewKeys_NameTheirControlPlane(t *testing.T) {
	p := newPlaneOf(t, "own")
	u := newUser(t)
	write(t, "secret", "0123456789abcdef")
	u.env["NIXFLEET_SERVER"], u.env["NIXFLEET_CA"] = p.URL, p.ca
	for _, words := range [][]string{
		{"key", "bootstrap", "--owner", "alice", "--secret-file", "secret", "--save"},
		{"key", "create", "--owner", "ci"},
		{"key", "rotate", "kaaaaaaaaa"},
	} {
		if r := u.mustRun(command.ExitDone, words...); strings.TrimSpace(r.out) != p.bound() {
			t.Errorf("%s: got %q, want %q", strings.Join(words, " "), r.out, p.bound())
		}
		if r := u.mustRun(command.ExitDone, append(words[:2:2], append(words[2:], "--json")...)...); !strings.Contains(r.out, p.bound()) {
			t.Errorf("%s --json: got %q", strings.Join(words, " "), r.out)
		}
	}
	if text := readAll(t, u.home+"/.config/nixfleet/credentials.toml"); !strings.Contains(text, p.bound()) {
		t.Errorf("the saved credentials are %q", text)
	}
	u.env["NIXFLEET_SERVER"], u.env["NIXFLEET_CA"], p.keys = "", "", nil
	u.mustRun(command.ExitDone, "machine", "list")
	if !slices.Equal(p.keys, []string{madeKey}) {
		t.Errorf("the control plane saw %q, want %q", p.keys, madeKey)
	}
}

// The bootstrap secret names no control plane, so a project file is not enough;
// and what needs no key is asked without one.
func TestFoundProject_GetsNoSecret(t *testing.T) {
	p := newPlaneOf(t, "evil")
	u := newUser(t)
	write(t, "secret", "0123456789abcdef")
	write(t, projectFile, fmt.Sprintf("server = %q\nca = %q\n", p.URL, p.ca))
	for _, flags := range [][]string{nil, {"--server", p.URL}} {
		r := u.mustRun(command.ExitError, append(flags, "key", "bootstrap", "--owner", "alice", "--secret-file", "secret")...)
		if !strings.Contains(r.stderr, "the bootstrap secret was not sent") || !strings.Contains(r.stderr, projectFile) || !strings.Contains(r.stderr, "hint: ") {
			t.Errorf("%q: stderr %q", flags, r.stderr)
		}
	}
	if len(p.paths) > 0 {
		t.Errorf("the control plane was called: %q", p.paths)
	}
	u.env["NIXFLEET_API_KEY"] = "nfk_older"
	u.run("info")
	if !slices.Equal(p.keys, []string{""}) {
		t.Errorf("info: the control plane saw the keys %q", p.keys)
	}
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
