// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/seen"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// The next release of a line follows the newest that the line has had, as its
// signed header says; never a number that the control plane only names (E03).
func TestReleaseCreate_FollowsOnlyWhatWasSigned(t *testing.T) {
	p, f, root := newTokenPlane(t)
	from := p.newest(f, "main", 1)
	p.entries = map[fleet.Digest][][]byte{from.Digest: from.Raw}
	p.documents = map[string][]byte{"root": f.RootEnvelope}
	stranger := trusttest.New(t, "acme", nil)
	head := func(sequence uint64, signer string) api.LineHead {
		envelope, _ := stranger.Unchecked(stranger.Header(sequence), []fleet.Entry{trusttest.Entry("web-01", "deleted")}, signer)
		_, digest, err := trust.CheckHeader(envelope, nil)
		if err != nil {
			t.Fatal(err)
		}
		return api.LineHead{Line: "main", Sequence: sequence, Digest: digest, Envelope: envelope}
	}
	good, lower, forged := head(7, "acme-release"), head(6, "acme-release"), head(9, "acme-former")
	boast := good
	boast.Sequence = 1 << 60
	u := newUser(t).of(p)
	write(t, "release.sec", trusttest.Key("acme-release").Encode())
	write(t, "nixfleet.toml", fmt.Sprintf("root = %q\n[cache]\nurl = \"https://cache.example.org\"\npublicKeys = [%q]\n", root, trusttest.Key("cache-1").PublicKey().String()))
	create := func(code int, want string, flags ...string) {
		t.Helper()
		r := u.mustRun(code, append([]string{"release", "create", "--dry-run", "--sign-key", "release.sec", "--from", string(from.Digest)}, flags...)...)
		if !strings.Contains(r.out+r.stderr, want) {
			t.Errorf("got %q %q, want %q", r.out, r.stderr, want)
		}
	}
	p.heads = []api.LineHead{good}
	create(command.ExitDone, "would be release 8 of line main")
	p.heads = []api.LineHead{boast}
	create(command.ExitDone, "would be release 8 of line main")

	p.heads = []api.LineHead{lower} // an older copy of the database
	create(command.ExitError, "give --after "+lower.Digest.Short())
	create(command.ExitError, "is "+lower.Digest.Short()+", not "+good.Digest.Short(), "--after", good.Digest.Short())
	create(command.ExitDone, "would be release 8 of line main", "--after", lower.Digest.Short())
	p.heads = []api.LineHead{} // a new database
	create(command.ExitError, "give --after "+good.Digest.Short())
	create(command.ExitDone, "would be release 8 of line main", "--after", good.Digest.Short())

	p.heads = []api.LineHead{forged} // or signed by a key that was replaced
	create(command.ExitError, "unknown-key")
	create(command.ExitDone, "would be release 10 of line main", "--after", forged.Digest.Short())
	create(command.ExitError, "unknown-key") // what a person said once is not remembered
	at, err := seen.At(func(k string) string { return u.env[k] }, p.URL)
	if err == nil {
		err = at.Keep(trust.Mark{Line: "main", Sequence: 9, Digest: forged.Digest})
	}
	if err != nil {
		t.Fatal(err)
	}
	create(command.ExitDone, "would be release 10 of line main") // verified before the key was replaced
}
