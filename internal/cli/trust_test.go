// SPDX-License-Identifier: MIT

package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// What a document says it is decides where it goes; what the control plane does
// not take is refused before anything is sent.
func TestTrustSubmit_GivesEachDocumentToItsOperation(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	const now = trusttest.Now
	for name, tc := range map[string]struct {
		envelope []byte
		path     string
	}{
		"revocations": {f.Revocations(fleet.Revocations{Version: 1, SignedAt: now}), "/api/v1/trust/revocations"},
		"timestamp":   {f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: now, Expires: now + 1000}), "/api/v1/trust/timestamp"},
		"grant": {f.Grant(fleet.Grant{
			Machines: []fleet.MachineID{"web-01"}, Digest: fleet.SHA256(nil), Kind: fleet.GrantStale, SignedAt: now, Expires: now + 1000,
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t)
			file := filepath.Join(t.TempDir(), "document.json")
			write(t, file, string(tc.envelope))
			got := newUser(t).of(p).run("trust", "submit", file)
			put := slices.Contains(p.paths, tc.path)
			switch {
			case tc.path != "" && (got.code != command.ExitDone || !put):
				t.Errorf("exit code %d, called %v\n%s", got.code, p.paths, got.stderr)
			case tc.path == "" && (got.code != command.ExitError || len(p.paths) > 0 || !strings.Contains(got.stderr, "can be submitted")):
				t.Errorf("exit code %d, called %v\n%s", got.code, p.paths, got.stderr)
			}
		})
	}
}
