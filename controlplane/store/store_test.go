// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	digestA = fleet.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	digestB = fleet.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func write(t *testing.T, s *Store, fn func(tx *Tx) error) {
	t.Helper()
	if err := s.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want fleet.Code) {
	t.Helper()
	if got := fleet.ErrorCode(err); got != want {
		t.Fatalf("error %v has code %q, want %q", err, got, want)
	}
}

func machine(id fleet.MachineID) fleet.Machine {
	return fleet.Machine{ID: id, Lifecycle: fleet.Active, Tags: fleet.NewTags(nil, []fleet.Tag{"web"}), CreatedAt: 5}
}

// seed writes a release for two machines and a rollout of it.
func seed(ctx context.Context, tx *Tx, rollouts ...fleet.RolloutID) error {
	r := NewRelease{
		Release: fleet.Release{
			Digest: digestA, RegisteredAt: 10, RegisteredBy: "key:alice",
			Header: fleet.Header{FleetID: "f", Line: "main", Sequence: 1},
		},
		Envelope: []byte(`{"payload":"x"}`),
		Entries:  []EntryKey{{Machine: "db-01"}, {Machine: "web-01"}},
		Raw:      [][]byte{[]byte(`{"id":"db-01"}`), []byte(`{"id":"web-01"}`)},
	}
	errs := []error{tx.AddMachine(ctx, machine("web-01")), tx.AddMachine(ctx, machine("db-01")), tx.AddRelease(ctx, r)}
	for _, id := range rollouts {
		errs = append(errs, tx.AddRollout(ctx, fleet.Rollout{
			ID: id, Spec: fleet.RolloutSpec{Release: digestA}.Defaults(), State: fleet.RolloutRunning, CreatedAt: 20, CreatedBy: "key:alice", Version: 1,
		}))
	}
	return errors.Join(errs...)
}

// What Write has answered is on the disk: a copy of the files, taken with the
// store still open as a crash would leave them, has the row.
func TestWrite_AnswersAfterTheRowIsDurable(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	s := open(t, filepath.Join(dir, "a.db"))
	for _, db := range []querier{s.writer.conn, s.reads} {
		level, _, err := first(t.Context(), db, column[int], `PRAGMA synchronous`)
		mode, _, err2 := first(t.Context(), db, column[string], `PRAGMA journal_mode`)
		if err != nil || err2 != nil || level != 2 || mode != "wal" {
			t.Fatalf("synchronous is %d and journal_mode %q (%v, %v), want 2 (FULL) and wal", level, mode, err, err2)
		}
	}
	for n := range 20 {
		write(t, s, func(tx *Tx) error { return tx.AddAudit(t.Context(), fleet.AuditEvent{At: int64(n), Action: "test"}) })
		path := filepath.Join(crashed, fmt.Sprint(n), "a.db")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, "a.db"+suffix))
			if err == nil {
				err = os.WriteFile(path+suffix, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		after := open(t, path)
		head, err := after.VerifyAudit(t.Context())
		if err != nil || head.Size != int64(n+1) {
			t.Fatalf("after a crash the chain has %d entries (%v), want %d", head.Size, err, n+1)
		}
	}
}

func TestWrite_SharesTransactionsAndUndoesOnlyWhatFailed(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	const writers = 200
	boom := errors.New("boom")
	results := make([]error, writers)
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			results[n] = s.Write(t.Context(), func(tx *Tx) error {
				if err := tx.AddMachine(t.Context(), machine(fleet.MachineID(fmt.Sprintf("m-%03d", n)))); err != nil {
					return err
				}
				if n%2 == 1 {
					return boom
				}
				return nil
			})
		})
	}
	wg.Wait()
	for n, err := range results {
		if (n%2 == 1) != errors.Is(err, boom) || n%2 == 0 && err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
	}
	machines, err := s.Machines(t.Context())
	if err != nil || len(machines) != writers/2 {
		t.Fatalf("%d machines (%v), want the %d whose write did not fail", len(machines), err, writers/2)
	}
}

func TestWrite_EndedContextNeverHidesAWriteThatHappened(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Write(ctx, func(tx *Tx) error {
		cancel() // the caller leaves in the middle of its own write
		return tx.SetMeta(ctx, "mode", "normal")
	})
	if err != nil {
		t.Fatalf("the write was done, the answer is %v", err)
	}
	if v, err := s.Meta(t.Context(), "mode"); v != "normal" || err != nil {
		t.Fatalf("mode is %q (%v)", v, err)
	}
	if err := s.Write(ctx, func(tx *Tx) error { return tx.SetMeta(ctx, "mode", "other") }); !errors.Is(err, context.Canceled) {
		t.Fatalf("a write of a caller who has left: %v", err)
	}
	if v, _ := s.Meta(t.Context(), "mode"); v != "normal" {
		t.Fatalf("a write that was answered with an error happened: mode is %q", v)
	}
}

func TestOpen_ReopensWithoutLossAndMigratesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	ctx := t.Context()
	var want []fleet.Machine
	for n := range 3 {
		s := open(t, path)
		if n == 0 {
			write(t, s, func(tx *Tx) error { return seed(ctx, tx, "r1") })
			write(t, s, func(tx *Tx) error {
				m, err := tx.Machine(ctx, "web-01")
				if err != nil {
					return err
				}
				m.State, m.Health, m.Running, m.Drift = fleet.AgentIdle, fleet.Healthy, "/nix/store/x", true
				m.ClaimedTags = []fleet.Tag{"prod"}
				m.Checks = []fleet.HealthCheckResult{{Name: "app", Status: fleet.HealthCheckPassing}}
				return tx.UpdateMachineStatus(ctx, m)
			})
		}
		got, err := s.Machines(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			want = got
		}
		if d := cmp.Diff(want, got); d != "" || len(got) != 2 {
			t.Fatalf("machines changed by reopening (-before +after):\n%s", d)
		}
		if found, err := s.Integrity(ctx); err != nil || len(found) > 0 {
			t.Fatalf("integrity: %v %v", found, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if m := want[1]; m.ID != "web-01" || !slices.Equal(m.ClaimedTags, []fleet.Tag{"prod"}) || !slices.Equal(m.Tags.Effective, []fleet.Tag{"web"}) || !m.Drift || m.Version != 1 {
		t.Fatalf("read back %+v", m)
	}
}

func TestOpen_RefusesAFileInUseANewerSchemaAndAMissingFileToRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	_, err := Open(t.Context(), Options{Path: path})
	wantCode(t, err, fleet.Conflict)
	look, err := Open(t.Context(), Options{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatalf("a second reader is refused: %v", err)
	}
	wantCode(t, look.Write(t.Context(), func(*Tx) error { return nil }), fleet.Unavailable)
	if err = errors.Join(look.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.Write(t.Context(), func(*Tx) error { return nil }), fleet.Unavailable)

	tamper(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1); UPDATE meta SET value = '9999' WHERE name = 'schema-reader'`)
	_, err = Open(t.Context(), Options{Path: path})
	wantCode(t, err, fleet.Conflict)
	_, err = Open(t.Context(), Options{Path: path + "x", ReadOnly: true})
	wantCode(t, err, fleet.NotFound)
}

// H07: a change made from an old version of a row is refused.
func TestUpdate_RefusesWhatWasChangedInTheMeantime(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return seed(ctx, tx, "r1") })
	r, err := s.Rollout(ctx, "r1")
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.Version = fleet.RolloutPaused, 2
	write(t, s, func(tx *Tx) error { return tx.UpdateRollout(ctx, r, 1) })
	wantCode(t, s.Write(ctx, func(tx *Tx) error { return tx.UpdateRollout(ctx, r, 1) }), fleet.Conflict)

	m, err := s.Machine(ctx, "web-01")
	if err != nil {
		t.Fatal(err)
	}
	stale := m
	write(t, s, func(tx *Tx) error { return tx.UpdateMachine(ctx, &m) })
	wantCode(t, s.Write(ctx, func(tx *Tx) error { return tx.UpdateMachine(ctx, &stale) }), fleet.Conflict)
}

// H08: two rollouts created at the same moment for the same machine.
func TestClaim_OneOfTwoRolloutsWins(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return seed(ctx, tx, "r1", "r2") })
	errs := make([]error, 2)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, id := range []fleet.RolloutID{"r1", "r2"} {
		wg.Go(func() {
			<-start
			errs[i] = s.Write(ctx, func(tx *Tx) error { return errors.Join(tx.Claim(ctx, id, "db-01"), tx.Claim(ctx, id, "web-01")) })
		})
	}
	close(start)
	wg.Wait()
	winner := slices.Index(errs, nil)
	if winner < 0 || errs[1-winner] == nil {
		t.Fatalf("the two claims ended with %v", errs)
	}
	id := []fleet.RolloutID{"r1", "r2"}[winner]
	if !strings.Contains(errs[1-winner].Error(), string(id)) {
		t.Fatalf("the conflict does not name the winner %s: %v", id, errs[1-winner])
	}
	claims, err := s.Claims(ctx)
	if d := cmp.Diff(map[fleet.MachineID]fleet.RolloutID{"db-01": id, "web-01": id}, claims); d != "" || err != nil {
		t.Fatalf("claims (-want +got): %v\n%s", err, d)
	}
}

// E10: an edited, removed or reordered row is found, and the first bad one is
// named.
func TestVerifyAudit_NamesTheFirstBadEntry(t *testing.T) {
	for name, tc := range map[string]struct{ statement, want string }{
		"edited body":    {`UPDATE audit SET body = REPLACE(body, 'alice', 'mallory') WHERE seq = 3`, "entry 3 "},
		"edited column":  {`UPDATE audit SET actor = 'key:mallory' WHERE seq = 4`, "entry 4 "},
		"edited hash":    {`UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 2`, "entry 2 "},
		"removed":        {`DELETE FROM audit WHERE seq = 3`, "entry 3 should be"},
		"removed, moved": {`DELETE FROM audit WHERE seq = 2; UPDATE audit SET seq = seq - 1 WHERE seq > 2`, "entry 2 "},
		"reordered":      {`UPDATE audit SET seq = 99 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 99`, "entry 2 "},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			s := open(t, path)
			for n := range 5 {
				write(t, s, func(tx *Tx) error {
					return tx.AddAudit(t.Context(), fleet.AuditEvent{At: int64(n), Actor: "key:alice", Action: "test", Subject: fmt.Sprint(n)})
				})
			}
			if head, err := s.VerifyAudit(t.Context()); err != nil || head.Size != 5 {
				t.Fatalf("a chain that nobody touched: %d %v", head.Size, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tamper(t, path, tc.statement)
			_, err := open(t, path).VerifyAudit(t.Context())
			wantCode(t, err, fleet.Conflict)
			if !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %q does not name %q", err, tc.want)
			}
		})
	}
}

func tamper(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReports_AreKeptOnceAndAppliedOnce(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return seed(ctx, tx) })
	for n, ids := range [][]string{{"1"}, {"1", "2", "2"}, {"2", "1"}} {
		write(t, s, func(tx *Tx) error {
			var reports []fleet.Report
			for _, id := range ids {
				reports = append(reports, fleet.Report{ID: id, Machine: "web-01", Kind: fleet.ReportDrift})
			}
			added, err := tx.AddReports(ctx, 100, reports...)
			if added != []int64{1, 1, 0}[n] {
				t.Errorf("reports %s: added %d", ids, added)
			}
			return err
		})
	}
	waiting, err := s.WaitingReports(ctx, 10)
	if err != nil || len(waiting) != 2 || waiting[0].Report.ID != "1" || waiting[1].Report.ID != "2" {
		t.Fatalf("inbox %+v %v", waiting, err)
	}
	write(t, s, func(tx *Tx) error { return tx.MarkApplied(ctx, waiting[0].Seq) })
	if err = s.Write(ctx, func(tx *Tx) error { return tx.MarkApplied(ctx, waiting[0].Seq) }); err == nil {
		t.Fatal("a report was applied twice")
	}
	write(t, s, func(tx *Tx) error { _, failed := tx.DeleteReportsBefore(ctx, 1000, 10); return failed })
	left, err := s.MachineReports(ctx, "web-01", fleet.PageRequest{})
	if err != nil || len(left.Items) != 1 || left.Items[0].ID != "2" {
		t.Fatalf("retention left %+v %v: only what was applied may go", left, err)
	}
}

// E10: a trail whose oldest entries were removed is verified from where an entry of it
// says that it begins; what was removed or altered otherwise is found.
func TestCutAudit_LeavesATrailThatVerifies(t *testing.T) {
	cutTo := func(t *testing.T, at int64) (*Store, string, fleet.AuditHead) {
		path := filepath.Join(t.TempDir(), "a.db")
		s, ctx := open(t, path), t.Context()
		for n := range int64(20) {
			write(t, s, func(tx *Tx) error { return tx.AddAudit(ctx, fleet.AuditEvent{At: n, Action: "test"}) })
		}
		var cut fleet.AuditHead
		write(t, s, func(tx *Tx) (err error) {
			if cut, err = tx.CutAudit(ctx, at, 7); err != nil || cut.Size == 0 {
				return err
			}
			return tx.AddAudit(ctx, fleet.AuditEvent{At: 100, Action: fleet.ActionAuditCut, Detail: fleet.AuditCut(cut)})
		})
		return s, path, cut
	}
	for at, want := range map[int64]int64{0: 0, 3: 3, 1000: 7} {
		s, _, cut := cutTo(t, at)
		if begin, err := s.AuditCut(t.Context()); err != nil || cut.Size != want || begin != cut {
			t.Errorf("before %d: cut at %d, %+v, %v", at, cut.Size, begin, err)
		}
		if head, err := s.VerifyAudit(t.Context()); err != nil || head.Size != map[bool]int64{true: 20, false: 21}[want == 0] {
			t.Errorf("before %d: %+v, %v", at, head, err)
		}
	}
	s, _, _ := cutTo(t, 1000) // of old entries only, the newest stays
	write(t, s, func(tx *Tx) error { _, err := tx.CutAudit(t.Context(), 1000, 1000); return err })
	if head, err := s.AuditHead(t.Context()); err != nil || head.Size != 21 {
		t.Errorf("head %+v, %v", head, err)
	}
	for harm, want := range map[string]string{
		`DELETE FROM audit WHERE seq = 8`:                                                                     "entry 9 is where entry 8 should be",
		`UPDATE audit SET body = REPLACE(body, '"test"', '"best"') WHERE seq = 8`:                             "entry 8 was altered",
		`INSERT INTO audit (seq, at, actor, action, subject, body, hash) VALUES (7, 0, '', '', '', '{}', '')`: "entry 7 is where entry 8 should be",
		`DELETE FROM audit WHERE seq = 21`:                                                                    "entry 8 is where entry 1 should be",
	} {
		s, path, _ := cutTo(t, 1000)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		tamper(t, path, harm)
		_, err := open(t, path).VerifyAudit(t.Context())
		wantCode(t, err, fleet.Conflict)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", harm, err, want)
		}
	}
}

func TestEvents_KeepTheirIDsAfterRetention(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	event := func(at int64) []api.Event {
		return []api.Event{{At: at, Rollout: &fleet.Rollout{ID: "r1"}}, {At: at, Machine: &fleet.Machine{ID: "web-01"}}}
	}
	write(t, s, func(tx *Tx) error { return tx.AddEvents(ctx, event(1)) })
	write(t, s, func(tx *Tx) error { _, err := tx.DeleteEventsBefore(ctx, 100, 10); return err })
	write(t, s, func(tx *Tx) error { return tx.AddEvents(ctx, event(2)) })
	var ids []int64
	all, err := s.Events(ctx, 0, fleet.EventFilter{}, 10)
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	if err != nil || !slices.Equal(ids, []int64{2, 3, 4}) {
		t.Fatalf("ids %v (%v), want 2 3 4", ids, err)
	}
	some, err := s.Events(ctx, 2, fleet.EventFilter{Rollout: "r1"}, 10)
	if err != nil || len(some) != 1 || some[0].ID != 3 || some[0].At != 2 || some[0].Rollout.ID != "r1" {
		t.Fatalf("events of r1 after 2: %+v %v", some, err)
	}
}

func TestBackup_IsAWholeStore(t *testing.T) {
	dir := t.TempDir()
	s, ctx := open(t, filepath.Join(dir, "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return seed(ctx, tx, "r1") })
	copyPath := filepath.Join(t.TempDir(), "it's a copy.db")
	if err := s.Backup(ctx, copyPath); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.Backup(ctx, copyPath), fleet.Conflict)
	b := open(t, copyPath)
	want, _ := s.ReleaseEntries(ctx, digestA)
	got, err := b.ReleaseEntries(ctx, digestA)
	if d := cmp.Diff(want, got); d != "" || err != nil || len(got) != 2 {
		t.Fatalf("entries in the backup (-want +got): %v\n%s", err, d)
	}
	if info, err := os.Stat(copyPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the backup is readable by others: %v %v", info.Mode(), err)
	}
}

func TestRows_AreReadAsTheyWereWritten(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return seed(ctx, tx, "r1", "r2") })
	batch := fleet.Batch{Rollout: "r1", Index: 1, Group: 2, AcknowledgedBy: map[string]int{"rolled-back": 1}, State: fleet.BatchOpen, Why: "w", Size: 2, Counts: fleet.Counts{Healthy: 1, Failed: 1}, OpenedAt: 3, OpenedRun: 2, Approved: true, ApprovedBy: "key:bob",
		Gates: []fleet.GateStatus{{Name: "errors", Answer: fleet.GateInconclusive, Message: "no data", Asked: 2, AskAt: 4}}}
	a := fleet.Assignment{
		Rollout: "r1", Machine: "web-01", Batch: 1, State: fleet.AssignHealthy, Attempt: 2, Digest: digestA, StorePath: "/nix/store/p",
		PreviousDigest: digestB, Outcome: fleet.OutcomeLive, Checks: []fleet.HealthCheckResult{{Name: "app"}}, HealthyAt: 50, HealthyRun: 5, OfferedAt: 40, OfferedRun: 4, EverOffered: true,
	}
	b := a
	b.Rollout, b.HealthyAt, b.HealthyRun = "r2", 30, 6 // the wall clock was set in between
	for range 2 {                                      // new, then changed
		write(t, s, func(tx *Tx) error {
			return errors.Join(tx.PutBatch(ctx, batch), tx.PutAssignments(ctx, a, b))
		})
	}
	batches, err := s.Batches(ctx, "r1")
	if d := cmp.Diff([]fleet.Batch{batch}, batches); d != "" || err != nil {
		t.Fatalf("batch (-want +got): %v\n%s", err, d)
	}
	assignments, err := s.AllAssignments(ctx, "r1")
	if d := cmp.Diff([]fleet.Assignment{a}, assignments); d != "" || err != nil {
		t.Fatalf("assignment (-want +got): %v\n%s", err, d)
	}
	rests, err := s.Rests(ctx, "web-01")
	if rest := rests["web-01"]; err != nil || rest.Desired == nil || rest.Desired.Rollout != "r2" {
		t.Fatalf("the machine rests on %+v (%v), want r2", rest, err)
	}
	rest1, err1 := s.LastHealthyIn(ctx, "r1")
	rest2, err2 := s.LastHealthyIn(ctx, "r2")
	if err = errors.Join(err1, err2); err != nil || len(rest1) != 0 || !slices.Equal(rest2, []fleet.MachineID{"web-01"}) {
		t.Fatalf("machines that rest on r1: %v, on r2: %v (%v)", rest1, rest2, err)
	}
	users, err := s.ReleaseUsers(ctx, digestA)
	if err != nil || len(users) != 2 {
		t.Fatalf("users of the release: %v %v", users, err)
	}
	wantCode(t, s.Write(ctx, func(tx *Tx) error { return tx.DeleteRelease(ctx, digestB) }), fleet.NotFound)
}
