// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// chain is an audit trail of n entries whose actions are what(seq).
func chain(n int, what func(seq int64) string) []fleet.AuditEntry {
	var out []fleet.AuditEntry
	var head fleet.Digest
	for seq := int64(1); seq <= int64(n); seq++ {
		body := fmt.Sprintf(`{"at":1,"actor":"key:alice","action":"%s","subject":"x:%d"}`, what(seq), seq)
		head = fleet.AuditHash(seq, head, body)
		out = append(out, fleet.AuditEntry{Seq: seq, Body: body, Hash: head})
	}
	return out
}

func same(int64) string { return "rollout.create" }

// E10: whatever was done to the trail, verify names the first bad entry. Entries
// that were cut off, or a whole trail that was rewritten with valid hashes, are
// noticed by the checkpoint of the run before.
func TestAuditVerify_FindsEveryChangeOfTheTrail(t *testing.T) {
	good := chain(7, same)
	for _, tc := range []struct {
		name string
		now  func() []fleet.AuditEntry
		want string
	}{
		{"altered", func() []fleet.AuditEntry {
			e := slices.Clone(good)
			e[3].Body = strings.Replace(e[3].Body, "alice", "mallory", 1)
			return e
		}, "entry 4 was altered"},
		{"altered, with its hash", func() []fleet.AuditEntry {
			e := slices.Clone(good)
			e[3].Body = strings.Replace(e[3].Body, "alice", "mallory", 1)
			e[3].Hash = fleet.AuditHash(4, e[2].Hash, e[3].Body)
			return e
		}, "entry 5 was altered"},
		{"removed", func() []fleet.AuditEntry { return slices.Delete(slices.Clone(good), 2, 3) }, "entry 4 is where entry 3 should be"},
		{"first removed", func() []fleet.AuditEntry { return slices.Clone(good[1:]) }, "entry 2 is where entry 1 should be"},
		{"reordered", func() []fleet.AuditEntry {
			e := slices.Clone(good)
			e[4], e[5] = e[5], e[4]
			return e
		}, "entry 6 is where entry 5 should be"},
		{"tail cut off", func() []fleet.AuditEntry { return slices.Clone(good[:6]) }, "does not contain the checkpoint seen before: entry 7"},
		{"all cut off", func() []fleet.AuditEntry { return nil }, "does not contain the checkpoint seen before: entry 7"},
		{"written anew", func() []fleet.AuditEntry {
			return chain(9, func(seq int64) string { return map[bool]string{true: "key.create", false: same(seq)}[seq == 5] })
		}, "does not contain the checkpoint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlane(t)
			p.audit = good
			u := newUser(t).of(p)
			if r := u.mustRun(command.ExitDone, "audit", "verify"); !strings.Contains(r.out, "7 entries") || !strings.Contains(r.out, "could not be seen") {
				t.Fatalf("first run says %q", r.out)
			}
			p.audit = tc.now()
			for range 2 { // a failed run does not change the checkpoint
				if r := u.mustRun(command.ExitError, "audit", "verify", "--json"); !strings.Contains(r.out, tc.want) || !strings.Contains(r.out, `"conflict"`) {
					t.Fatalf("says %s, want %q", r.out, tc.want)
				}
			}
		})
	}
}

// E10: a trail whose oldest entries were removed by retention verifies, and what
// could not be compared for it is said. It must say itself where it begins.
func TestAuditVerify_OfATrailThatWasCut(t *testing.T) {
	full := chain(9, same)
	for _, size := range []int64{4, 6} { // it was cut twice
		last := full[len(full)-1]
		body := fmt.Sprintf(`{"at":1,"actor":"control-plane","action":"%s","subject":"audit","detail":{"size":"%d","head":"%s"}}`, fleet.ActionAuditCut, size, full[size-1].Hash)
		full = append(full, fleet.AuditEntry{Seq: last.Seq + 1, Body: body, Hash: fleet.AuditHash(last.Seq+1, last.Hash, body)})
	}
	once, twice := full[4:10], full[6:]
	p := newPlane(t)
	verify := func(u *user, entries []fleet.AuditEntry, want ...string) {
		t.Helper()
		p.audit = entries
		r := u.mustRun(command.ExitDone, "audit", "verify")
		for _, w := range want {
			if !strings.Contains(r.out, w) {
				t.Errorf("says %q, want %q", r.out, w)
			}
		}
	}
	u, other := newUser(t).of(p), newUser(t).of(p)
	verify(u, full[:4], "4 entries")
	verify(other, full[:4], "4 entries")
	verify(u, once, "10 entries", "begins after entry 4", "seen before, at entry 4")
	verify(u, twice, "11 entries", "begins after entry 6", "seen before, at entry 10")
	verify(other, twice, "begins after entry 6", "up to entry 4, and could not be compared")
	for name, entries := range map[string][]fleet.AuditEntry{
		"it says nothing":           chain(9, same)[6:],
		"more is gone than it says": full[7:],
		"less is gone":              full[5:],
	} {
		p.audit = entries
		if r := newUser(t).of(p).mustRun(command.ExitError, "audit", "verify", "--json"); !strings.Contains(r.out, `"conflict"`) {
			t.Errorf("%s: %s", name, r.out)
		}
	}
}

func TestAuditVerify_KeepsACheckpointForEachControlPlane(t *testing.T) {
	one, two := newPlane(t), newPlane(t)
	u := newUser(t).of(one)
	u.mustRun(command.ExitDone, "audit", "verify") // every trail contains the checkpoint of an empty one
	for n := 1; n <= 5; n += 2 {
		one.audit = chain(n, same)
		if r := u.mustRun(command.ExitDone, "audit", "verify"); !strings.Contains(r.out, fmt.Sprintf("seen before, at entry %d", max(0, n-2))) {
			t.Errorf("with %d entries: %q", n, r.out)
		}
	}
	two.audit = chain(2, func(int64) string { return "key.create" })
	if r := u.of(two).mustRun(command.ExitDone, "audit", "verify"); !strings.Contains(r.out, "no earlier checkpoint") {
		t.Errorf("another control plane: %q", r.out)
	}
	files, err := filepath.Glob(filepath.Join(u.home, ".local", "state", "nixfleet", "audit-*.json"))
	if err != nil || len(files) != 2 {
		t.Errorf("checkpoints %q, %v; want two", files, err)
	}
	// O08: a checkpoint that cannot be read is an error, not a first run.
	for _, f := range files {
		if err := os.WriteFile(f, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u.mustRun(command.ExitError, "audit", "verify")
	u.env["HOME"] = ""
	if r := u.mustRun(command.ExitError, "audit", "verify"); !strings.Contains(r.stderr, "XDG_STATE_HOME") {
		t.Errorf("without a home: %q", r.stderr)
	}
}

// A release signs the audit trail's checkpoint; a trail that is shorter, or another
// one, is found without a checkpoint of one's own.
func TestAuditVerify_ComparesWithWhatReleasesSign(t *testing.T) {
	good := chain(7, same)
	f := trusttest.New(t, "acme", func(r *fleet.Root) { r.Expires = time.Now().AddDate(1, 0, 0).UnixMilli() })
	sign := func(seq uint64, size int64, by string) (fleet.Release, []byte) {
		h := f.Header(seq)
		h.AuditHead = &fleet.AuditHead{Size: size, Head: good[size-1].Hash}
		envelope, _ := f.Unchecked(h, []fleet.Entry{trusttest.Entry("web-01", "a")}, by)
		_, d, err := trust.CheckHeader(envelope, nil)
		if err != nil {
			t.Fatal(err)
		}
		return fleet.Release{Digest: d, Header: fleet.Header{Line: "main", Sequence: seq}}, envelope
	}
	first, one := sign(1, 3, "acme-release")
	second, two := sign(2, 6, "acme-release")
	forged, three := sign(3, 7, "mallory")
	for name, tc := range map[string]struct {
		now  []fleet.AuditEntry
		want string // "": the chain is good
	}{
		"good":      {good, ""},
		"longer":    {chain(9, same), ""},
		"cut off":   {good[:5], "release " + second.Digest.Short() + " was signed when it had 6"},
		"all gone":  {nil, "release " + first.Digest.Short() + " was signed when it had 3"},
		"rewritten": {chain(9, func(seq int64) string { return map[bool]string{true: "key.create", false: same(seq)}[seq == 5] }), "not the one that release " + second.Digest.Short() + " signs"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t)
			u := newUser(t).of(p)
			p.documents = map[string][]byte{"root": f.RootEnvelope}
			p.releases = []fleet.Release{forged, second, first}
			p.envelopes = map[fleet.Digest][]byte{first.Digest: one, second.Digest: two, forged.Digest: three}
			p.audit = tc.now
			if tc.want == "" {
				r := u.mustRun(command.ExitDone, "audit", "verify")
				if !strings.Contains(r.out, "the checkpoints that 2 releases sign") || !strings.Contains(r.out, "1 releases are not signed as") {
					t.Errorf("says %s", r.out)
				}
				return
			}
			r := u.mustRun(command.ExitError, "audit", "verify")
			if !strings.Contains(r.stderr, tc.want) {
				t.Errorf("says %s, want %q", r.stderr, tc.want)
			}
			u.mustRun(command.ExitDone, "audit", "verify", "--releases", "0") // the chain alone is good
		})
	}
}

// A release signs the audit trail's end, unless the trail is behind what was seen.
func TestAuditHead_IsNotBehindWhatWasSeen(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	p.audit = chain(7, same)
	head := func() (*fleet.AuditHead, error) {
		a := &app{Line: command.New(command.Invocation{Env: func(k string) string { return u.env[k] }, Stderr: io.Discard})}
		a.flags.register(pflag.NewFlagSet("nixfleet", pflag.ContinueOnError))
		c, err := a.client()
		if err != nil {
			t.Fatal(err)
		}
		return a.auditHead(t.Context(), c)
	}
	u.mustRun(command.ExitDone, "audit", "verify")
	p.audit = chain(9, same)
	if got, err := head(); err != nil || got.Size != 9 || got.Head != p.audit[8].Hash {
		t.Errorf("a longer trail: %+v, %v", got, err)
	}
	p.audit = chain(6, same)
	if _, err := head(); fleet.ErrorCode(err) != fleet.Conflict {
		t.Errorf("a shorter trail: %v", err)
	}
	p.audit = chain(7, func(int64) string { return "key.create" })
	if _, err := head(); fleet.ErrorCode(err) != fleet.Conflict {
		t.Errorf("another trail: %v", err)
	}
	u.env["HOME"] = "" // a container: there is nothing to compare with
	if got, err := head(); err != nil || got.Size != 7 {
		t.Errorf("without a home: %+v, %v", got, err)
	}
}
