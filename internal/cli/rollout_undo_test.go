// SPDX-License-Identifier: MIT

package cli

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/undo"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// undoScene is a control plane where rollout 01r brought release 2 to machines that
// ran release 1, and a user who may sign releases.
type undoScene struct {
	*plane
	user  *user
	fleet *trusttest.Fleet
	old   *trust.Release
	args  []string // of rollout undo, but --yes
}

func newUndoScene(t *testing.T) *undoScene {
	t.Helper()
	s := &undoScene{plane: newPlane(t), fleet: trusttest.New(t, "acme", func(r *fleet.Root) { r.Expires = max(trusttest.Now, time.Now().UnixMilli()) + trusttest.Day })}
	s.user = newUser(t).of(s.plane)
	s.envelopes, s.entries = map[fleet.Digest][]byte{}, map[fleet.Digest][][]byte{}
	ids := []fleet.MachineID{"web-01", "web-02", "web-03", "web-04", "web-05", "web-06"}
	signed := func(sequence uint64, system string) *trust.Release {
		entries := []fleet.Entry{}
		for _, id := range ids {
			entries = append(entries, trusttest.Entry(id, system))
		}
		return s.fleet.Release(s.fleet.Header(sequence), entries...)
	}
	var now *trust.Release
	s.old, now = signed(1, "old"), signed(2, "new")
	for _, r := range []*trust.Release{now, s.old} {
		s.releases = append(s.releases, fleet.Release{Digest: r.Digest, Header: r.Header})
		s.envelopes[r.Digest], s.entries[r.Digest] = r.Envelope, r.Raw
	}
	s.rollouts = []fleet.Rollout{{ID: "01r", State: fleet.RolloutCompleted, Spec: fleet.RolloutSpec{
		Release: now.Digest, Strategy: fleet.Canary, Canaries: []string{"web-04", "web-01"}, OnFailure: fleet.RevertAll, Select: []string{}, CatchUpOf: "01q",
		Offline: fleet.OfflineWait, OfflineAfterMs: 1, MinHealthyMs: 7, HealthyDeadlineMs: 1000, Approve: true,
	}}}
	for i, id := range ids {
		m := machine(string(id))
		m.Desired = &fleet.Desired{Rollout: "01r"}
		s.machines = append(s.machines, m)
		s.assignments = append(s.assignments, fleet.Assignment{
			Rollout: "01r", Machine: id, State: fleet.AssignHealthy, EverOffered: true, StorePath: now.Entries[i].StorePath,
			PreviousDigest: s.old.Digest, PreviousPath: s.old.Entries[i].StorePath,
		})
	}
	s.assignments[2].State = fleet.AssignRolledBack
	s.assignments[3].EverOffered = false
	s.assignments[4].PreviousDigest = ""
	s.machines[5].Desired.Rollout = "01s"
	dir := t.TempDir()
	write(t, filepath.Join(dir, "release.sec"), trusttest.Key("acme-release").Encode()+"\n")
	write(t, filepath.Join(dir, "root.json"), string(s.fleet.RootEnvelope))
	s.args = []string{
		"rollout", "undo", "01r", "--root", filepath.Join(dir, "root.json"), "--sign-key", filepath.Join(dir, "release.sec"),
		"--cache", "https://cache.example.org", "--cache-key", trusttest.Key("cache.example.org-1").PublicKey().String(),
	}
	return s
}

// Undo signs, in a new release, the very entries of what machines ran before, and
// rolls them out as the rollout was.
func TestRolloutUndo_SignsWhatEachMachineRanBefore(t *testing.T) {
	s := newUndoScene(t)
	r := s.user.mustRun(command.ExitDone, append(s.args, "--yes", "--json")...)
	var out undo.Plan
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		t.Fatal(err)
	}
	why := map[fleet.MachineID]string{}
	for _, l := range out.LeftOut {
		why[l.Machine] = l.Why
	}
	if d := cmp.Diff(why, map[fleet.MachineID]string{
		"web-03": "it runs what it ran before", "web-04": "the rollout did not reach it",
		"web-05": "what it ran before is of no release", "web-06": "rollout 01s came later",
	}); d != "" {
		t.Errorf("left out (-got +want):\n%s", d)
	}
	made, err := trust.CheckRelease(s.made.Envelope, s.made.Entries, &s.fleet.Root, time.Now().UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	if h := made.Header; h.Sequence != 3 || h.PreviousDigest != s.releases[0].Digest || h.Line != "main" || h.Name != "undo of 01r" || made.Digest != out.Release {
		t.Errorf("registered the header %+v", h)
	}
	if !slices.EqualFunc(made.Raw, s.old.Raw[:2], func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Errorf("signed %s, want %s", made.Raw, s.old.Raw[:2])
	}
	want := s.rollouts[0].Spec
	want.Release, want.Name, want.Select, want.Canaries, want.CatchUpOf = made.Digest, "undo of 01r", []string{"web-01", "web-02"}, []string{"web-01"}, ""
	if d := cmp.Diff(want, s.asked.Spec); d != "" || s.asked.DryRun {
		t.Errorf("rolled out with (-want +got):\n%s", d)
	}
}

// Nothing is signed unless a person says so, of a rollout that has not ended, or
// where there is nothing to undo.
func TestRolloutUndo_AsksBeforeItSigns(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(s *undoScene)
		code   int
		want   string
	}{
		"nobody answers": {func(*undoScene) {}, command.ExitUsage, "--yes"},
		"dry run":        {func(s *undoScene) { s.args = append(s.args, "--dry-run") }, command.ExitDone, ""},
		"running":        {func(s *undoScene) { s.args, s.rollouts[0].State = append(s.args, "--yes"), fleet.RolloutRunning }, command.ExitError, "nixfleet rollout revert"},
		"nothing": {func(s *undoScene) {
			s.args = append(s.args, "--yes")
			for i := range s.assignments {
				s.assignments[i].State = fleet.AssignReverted
			}
		}, command.ExitError, "5: it runs what it ran before"},
	} {
		s := newUndoScene(t)
		tt.change(s)
		if r := s.user.mustRun(tt.code, s.args...); !strings.Contains(r.stderr, tt.want) {
			t.Errorf("%s: %q, want %q in it", name, r.stderr, tt.want)
		}
		if s.made != nil || s.asked != nil {
			t.Errorf("%s: registered %+v, rolled out %+v", name, s.made, s.asked)
		}
	}
}

// E01: a control plane that makes up what machines ran before, or whose keys count,
// gets no signature for it: neither by undo nor by create --from.
func TestSigningAgain_TakesNothingThatNoSignerSigned(t *testing.T) {
	for name, evil := range map[string]func(t *testing.T, s *undoScene){
		"another path in an entry": func(t *testing.T, s *undoScene) {
			e := trusttest.Entry("web-01", "evil")
			s.entries[s.old.Digest][0] = trusttest.Payload(t, e)
			s.assignments[0].PreviousPath = e.StorePath
		},
		"another release under its digest": func(t *testing.T, s *undoScene) {
			other := s.fleet.Release(s.fleet.Header(9), trusttest.Entry("web-01", "new"))
			s.envelopes[s.old.Digest], s.entries[s.old.Digest] = other.Envelope, other.Raw
		},
		"keys of its own, where no root is kept": func(t *testing.T, s *undoScene) {
			f := trusttest.New(t, "acme", func(r *fleet.Root) {
				r.Expires = max(trusttest.Now, time.Now().UnixMilli()) + trusttest.Day
				trusttest.AddKey(r, fleet.TrustRoleRelease, "evil")
			})
			envelope, raw := f.Unchecked(f.Header(1), []fleet.Entry{trusttest.Entry("web-01", "evil")}, "evil")
			_, digest, err := trust.CheckHeader(envelope, &f.Root)
			if err != nil {
				t.Fatal(err)
			}
			s.documents = map[string][]byte{"root": f.RootEnvelope}
			s.envelopes[digest], s.entries[digest] = envelope, raw
			s.releases[1].Digest = digest
			s.assignments[0].PreviousDigest, s.assignments[0].PreviousPath = digest, trusttest.Entry("web-01", "evil").StorePath
			i := slices.Index(s.args, "--root")
			s.args = slices.Delete(s.args, i, i+2)
		},
	} {
		for _, from := range []bool{false, true} {
			s := newUndoScene(t)
			evil(t, s)
			args := append(slices.Clone(s.args), "--yes")
			if from {
				args = append([]string{"release", "create", "--from", string(s.releases[1].Digest)}, s.args[3:]...)
			}
			r := s.user.mustRun(command.ExitError, args...)
			why := []string{"is not signed again", "is not what was signed", "the control plane shows release", "nothing shows who signed it"}
			if s.made != nil || !slices.ContainsFunc(why, func(w string) bool { return strings.Contains(r.stderr, w) }) {
				t.Errorf("%s, from %t: %s; registered %+v", name, from, r.stderr, s.made)
			}
		}
	}
}
