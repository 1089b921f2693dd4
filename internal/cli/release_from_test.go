// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E01: `release create --from` signs the systems of an older release again. A control
// plane that was taken over gets no other system signed by that: what it sends counts
// only as it was signed before.
func TestReleaseCreate_SignsAgainOnlyWhatWasSigned(t *testing.T) {
	p, f, root := newTokenPlane(t)
	good := p.newest(f, "main", 3)
	p.heads = []api.LineHead{{Line: "main", Envelope: good.Envelope}}
	evil := f.Release(f.Header(4), trusttest.Entry("web-01", "evil"))
	stranger := trusttest.New(t, "stranger", nil)
	forged, forgedRaw := stranger.Unchecked(f.Header(3), evil.Entries, "stranger-release")
	u := newUser(t).of(p)
	write(t, "release.sec", trusttest.Key("acme-release").Encode())
	project := fmt.Sprintf("root = %q\n[cache]\nurl = \"https://cache.example.org\"\npublicKeys = [%q]\n", root, trusttest.Key("cache-1").PublicKey().String())
	write(t, "nixfleet.toml", project)
	for name, tc := range map[string]struct {
		envelope []byte
		entries  [][]byte
		flags    []string
		want     string // of the error; "" if it is signed
	}{
		"as it was signed":            {envelope: good.Envelope, entries: good.Raw},
		"another system":              {envelope: good.Envelope, entries: evil.Raw, want: "is not what was signed"},
		"one machine more":            {envelope: good.Envelope, entries: slices.Concat(good.Raw, evil.Raw), want: "is not what was signed"},
		"no entries":                  {envelope: good.Envelope, want: "is not what was signed"},
		"another release of ours":     {envelope: evil.Envelope, entries: evil.Raw, want: "the control plane shows release"},
		"signed by a stranger":        {envelope: forged, entries: forgedRaw, want: "unknown-key"},
		"without a root of one's own": {envelope: good.Envelope, entries: good.Raw, flags: []string{"--root", ""}, want: "nothing shows who signed it"},
	} {
		p.envelopes, p.entries = map[fleet.Digest][]byte{good.Digest: tc.envelope}, map[fleet.Digest][][]byte{good.Digest: tc.entries}
		p.documents = map[string][]byte{"root": f.RootEnvelope}
		code := command.ExitDone
		if tc.want != "" {
			code = command.ExitError
		}
		flags := append([]string{"--json", "release", "create", "--dry-run", "--sign-key", "release.sec", "--from", string(good.Digest)}, tc.flags...)
		r := u.mustRun(code, flags...)
		if tc.want != "" && !strings.Contains(r.stderr, tc.want) || tc.want == "" && !strings.Contains(r.out, string(good.Entries[0].StorePath)) {
			t.Errorf("%s: %s\n%s", name, r.out, r.stderr)
		}
		if strings.Contains(r.out, string(evil.Entries[0].StorePath)) {
			t.Errorf("%s: the other system would be signed: %s", name, r.out)
		}
	}
}
