// SPDX-License-Identifier: MIT

package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// newest makes a release of f the newest that p knows.
func (p *plane) newest(f *trusttest.Fleet, line fleet.Line, sequence uint64) *trust.Release {
	h := f.Header(sequence)
	h.Line = line
	r := f.Release(h, trusttest.Entry("web-01", "system"))
	p.releases = []fleet.Release{{Digest: r.Digest, Header: r.Header}}
	p.envelopes = map[fleet.Digest][]byte{r.Digest: r.Envelope}
	return r
}

// newTokenPlane is a control plane that makes tokens, and the root document's file.
func newTokenPlane(t *testing.T) (p *plane, f *trusttest.Fleet, root string) {
	t.Helper()
	p, f = newPlane(t), trusttest.New(t, "acme", nil)
	p.token = api.TokenParts{Machine: "web-01", Secret: "0123456789abcdef", CAHash: api.CAHash(nil)}.String()
	root = filepath.Join(t.TempDir(), "root.json")
	write(t, root, string(f.RootEnvelope))
	return p, f, root
}

// parsed is the token that `machine token` printed.
func parsed(t *testing.T, r result) api.TokenParts {
	t.Helper()
	var out struct{ Token string }
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		t.Fatalf("%q: %v", r.out, err)
	}
	tok, err := api.ParseToken(out.Token)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// The floor comes with the token, from the operator's side: the newest release, as
// the CLI verified it.
func TestMachineToken_CarriesTheNewestReleaseAsItWasVerified(t *testing.T) {
	p, f, root := newTokenPlane(t)
	u := newUser(t).of(p)
	write(t, "nixfleet.toml", fmt.Sprintf("root = %q\nline = \"staging\"\n", root))

	tok := parsed(t, u.mustRun(command.ExitDone, "--json", "machine", "token", "web-01"))
	if tok.Floor == nil || tok.Floor.Line != "staging" || len(tok.Floor.Release) > 0 || tok.Bare() != p.token {
		t.Errorf("no release yet: %+v", tok.Floor)
	}
	r := p.newest(f, "staging", 3)
	tok = parsed(t, u.mustRun(command.ExitDone, "--json", "machine", "token", "web-01", "--ttl", "1h"))
	left := time.Until(time.UnixMilli(tok.Floor.Expires))
	if string(tok.Floor.Release) != string(r.Envelope) || left < 59*time.Minute || left > time.Hour {
		t.Errorf("a release: %+v, for %s", tok.Floor, left)
	}
	// A floor that the control plane adds counts for nothing.
	bare := p.token
	p.token = api.TokenParts{Machine: "web-01", Secret: "0123456789abcdef", CAHash: api.CAHash(nil), Floor: &api.TokenFloor{Line: "staging", Expires: 1 << 60}}.String()
	if tok = parsed(t, u.mustRun(command.ExitDone, "--json", "machine", "token", "web-01")); tok.Bare() != bare || len(tok.Floor.Release) == 0 {
		t.Errorf("the control plane's floor: %+v", tok.Floor)
	}
	res := u.mustRun(command.ExitDone, "--json", "machine", "token", "web-01", "--root", "")
	if tok = parsed(t, res); tok.Floor != nil || !strings.Contains(res.stderr, "nixfleet-agent adopt-floor") {
		t.Errorf("without a root document: %+v\n%s", tok.Floor, res.stderr)
	}
}

// A control plane that shows an older release than it did, none, or one that the
// root did not sign gets no token made.
func TestMachineToken_RefusesAHeadThatCannotBeTheNewest(t *testing.T) {
	p, f, root := newTokenPlane(t)
	u := newUser(t).of(p)
	p.newest(f, "main", 5)
	u.mustRun(command.ExitDone, "machine", "token", "web-01", "--root", root)
	for _, tc := range []struct {
		name, want string
		lie        func()
	}{
		{"an older release", "was seen before", func() { p.newest(f, "main", 4) }},
		{"no release", "was seen before", func() { p.releases = nil }},
		{"another release with the sequence", "was seen before", func() {
			r := f.Release(f.Header(5), trusttest.Entry("web-01", "another system"))
			p.releases, p.envelopes = []fleet.Release{{Digest: r.Digest, Header: r.Header}}, map[fleet.Digest][]byte{r.Digest: r.Envelope}
		}},
		{"another fleet's", "root document", func() { p.newest(trusttest.New(t, "other", nil), "main", 9) }},
		{"another line's", "of line staging", func() { p.newest(f, "staging", 9); p.anyLine = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.lie()
			p.paths = nil
			r := u.mustRun(command.ExitError, "machine", "token", "web-01", "--root", root)
			if !strings.Contains(r.stderr, tc.want) || slices.Contains(p.paths, "/api/v1/machines/web-01/token") {
				t.Errorf("called %v\n%s", p.paths, r.stderr)
			}
		})
	}
	p.anyLine = false
	p.newest(f, "main", 6)
	u.mustRun(command.ExitDone, "machine", "token", "web-01", "--root", root)
	p.newest(f, "staging", 1) // another line has its own
	u.mustRun(command.ExitDone, "machine", "token", "web-01", "--root", root, "--line", "staging")
	p.newest(f, "main", 5)
	u.mustRun(command.ExitError, "machine", "token", "web-01", "--root", root)
}
