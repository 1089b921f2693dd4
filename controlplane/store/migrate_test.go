// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/arcanesys/nixfleet/fleet"
)

// openAt makes a file as the program had it that knew so many migrations.
func openAt(t *testing.T, path string, version int64, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// O11: a database of the program before is read with the words of this one.
func TestMigrate_RenamesWhatTheVersionBeforeWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	assignment := func(id, state, outcome, reason, message string) string {
		return `INSERT INTO assignment (rollout_id, machine_id, batch, state, why, attempt, digest, store_path, previous_digest, previous_path,
			outcome, reason, message, checks, offered_at, deadline, healthy_at, ended_at, ever_offered)
			VALUES ('r1', '` + id + `', 0, '` + state + `', '', 1, 'd', 'p', '', '', '` + outcome + `', '` + reason + `', '` + message + `', '[]', 0, 0, 0, 0, 1)`
	}
	before := []string{
		`INSERT INTO release (digest, line, sequence, envelope, header, registered_at, registered_by) VALUES ('d', 'main', 1, '{}', '{}', 1, 'key:alice')`,
		`INSERT INTO rollout (id, release_digest, spec, state, why, batch, machines, created_at, created_by, started_at, ended_at, progress_at, acknowledged, wake_at, version)
			VALUES ('r1', 'd', '{}', 'running', '', 0, 9, 1, 'key:alice', 1, 0, 0, 0, 0, 1)`,
		`INSERT INTO batch (rollout_id, position, state, why, size, counts, opened_at, soak_until, ended_at, approved, approved_by, acknowledged)
			VALUES ('r1', 0, 'open', '', 9, '{"pending":1,"reverting":2}', 1, 0, 0, 0, '', 0)`,
	}
	want := map[fleet.MachineID][3]string{}
	for _, tc := range []struct {
		id                             fleet.MachineID
		state, outcome, reason, text   string
		stateNow, outcomeNow, whyNow   string
		health, healthNow, agentStates string
	}{
		{"by-itself", "reverted", "reverted", "check-failed", "", "rolled-back", "rolled-back", "check-failed", "passing", "healthy", "idle"},
		{"by-order", "reverted", "reverted", "revert-ordered", "", "reverted", "reverted", "revert-ordered", "failing", "unhealthy", "fetching"},
		{"on-its-way", "reverting", "", "check-failed", "", "rolling-back", "", "check-failed", "pending", "pending", "rolling-back"},
		{"ordered", "reverting", "", "revert-ordered", "", "reverting", "", "revert-ordered", "", "", ""},
		{"stuck", "revert-failed", "revert-failed", "revert-error", "check-failed: x", "rollback-failed", "rollback-failed", "previous-failed", "", "", ""},
		{"stuck-by-order", "revert-failed", "revert-failed", "revert-error", "revert-ordered: x", "revert-failed", "revert-failed", "previous-failed", "", "", ""},
		{"late", "revert-failed", "", "revert-deadline", "", "revert-failed", "", "revert-deadline", "", "", ""},
		{"well", "healthy", "live", "", "", "healthy", "live", "", "", "", ""},
	} {
		before = append(before, `INSERT INTO machine (id, lifecycle, operator_tags, created_at, health, agent_state)
			VALUES ('`+string(tc.id)+`', 'active', '[]', 1, '`+tc.health+`', '`+tc.agentStates+`')`,
			assignment(string(tc.id), tc.state, tc.outcome, tc.reason, tc.text))
		want[tc.id] = [3]string{tc.stateNow + " " + tc.outcomeNow + " " + tc.whyNow, tc.healthNow, tc.agentStates}
	}
	openAt(t, path, 12, before...)
	s := open(t, path)
	got := map[fleet.MachineID][3]string{}
	rows, err := s.AllAssignments(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rows {
		var m fleet.Machine
		if m, err = s.Machine(t.Context(), a.Machine); err != nil {
			t.Fatal(err)
		}
		got[a.Machine] = [3]string{string(a.State) + " " + string(a.Outcome) + " " + string(a.Reason), string(m.Health), string(m.State)}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	batches, err := s.Batches(t.Context(), "r1")
	if err != nil || len(batches) != 1 || batches[0].Counts.RollingBack != 2 {
		t.Errorf("batches %+v, %v", batches, err)
	}
	if found, err := s.Integrity(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("integrity: %v, %v", found, err)
	}
}

// O11: a machine takes the key of its present enrolment. What ended before, also
// while the clock was ahead, does not count again.
func TestMigrate_TakesTheKeysOfEnrolledMachines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	machine := func(id, lifecycle string, enrolled int) string {
		return fmt.Sprintf(`INSERT INTO machine (id, lifecycle, operator_tags, created_at, enrolled_at) VALUES ('%s', '%s', '[]', 1, %d)`, id, lifecycle, enrolled)
	}
	token := func(id, key string, used int) string {
		return fmt.Sprintf(`INSERT INTO enrolment_token (hash, machine_id, created_at, expires_at, replaces, used_at, key_hash, certificate)
			VALUES ('%s %d', '%s', 1, 9, 0, %d, '%s', '"AA=="')`, id, used, id, used, key)
	}
	certificate := func(id string, issued, revoked int) string {
		return fmt.Sprintf(`INSERT INTO certificate (serial, machine_id, issued_at, not_after, revoked_at) VALUES ('%s-%d', '%s', %d, 900, %d)`, id, issued, id, issued, revoked)
	}
	openAt(t, path, 15,
		machine("enrolled", "active", 100), token("enrolled", "k1", 100), certificate("enrolled", 100, 0), certificate("enrolled", 150, 0),
		machine("replaced", "active", 200), token("replaced", "k2", 100), token("replaced", "k3", 200),
		certificate("replaced", 100, 201), certificate("replaced", 200, 0),
		// Its token was forgotten; the certificate from before was not revoked.
		machine("long-ago", "active", 200), certificate("long-ago", 100, 0), certificate("long-ago", 200, 0), certificate("long-ago", 300, 0),
		machine("gone", "decommissioned", 100), token("gone", "k4", 100), certificate("gone", 100, 0),
		machine("gone-and-pending", "pending", 100), token("gone-and-pending", "k5", 100), certificate("gone-and-pending", 100, 150),
		// Its row was lost; it renewed before it was adopted.
		machine("adopted", "active", 300), certificate("adopted", 200, 0),
		machine("waiting", "provisioning", 0), token("waiting", "", 0),
	)
	s := open(t, path)
	got := map[string]string{}
	list, err := s.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		got[string(m.ID)] = string(m.Key)
	}
	for _, serial := range []string{
		"enrolled-100", "enrolled-150", "replaced-100", "replaced-200", "long-ago-100", "long-ago-200", "long-ago-300", "gone-100", "gone-and-pending-100", "adopted-200",
	} {
		c, ok, err := s.Certificate(t.Context(), serial)
		if err != nil || !ok {
			t.Fatalf("certificate %s: %v, %v", serial, ok, err)
		}
		if c.RevokedAt == 0 {
			got[serial] = "counts"
		}
	}
	want := map[string]string{
		"enrolled": "k1", "enrolled-100": "counts", "enrolled-150": "counts", "replaced": "k3", "replaced-200": "counts",
		"long-ago": "", "long-ago-200": "counts", "long-ago-300": "counts", "gone": "", "gone-and-pending": "",
		"adopted": "", "adopted-200": "counts", "waiting": "",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if found, err := s.Integrity(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("integrity: %v, %v", found, err)
	}
}

// A word of a newer agent can be kept; one of any length cannot.
func TestMachineWords_AreHeldByLengthOnly(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	write(t, s, func(tx *Tx) error { return seed(t.Context(), tx, "r1") })
	m := machine("web-01")
	m.State = "dancing"
	write(t, s, func(tx *Tx) error { return tx.UpdateMachineStatus(t.Context(), m) })
	a := fleet.Assignment{Rollout: "r1", Machine: "web-01", State: fleet.AssignFailed, Outcome: "half-live"}
	write(t, s, func(tx *Tx) error { return tx.PutAssignments(t.Context(), a) })
	m.State = fleet.AgentState(strings.Repeat("x", 65))
	if err := s.Write(t.Context(), func(tx *Tx) error { return tx.UpdateMachineStatus(t.Context(), m) }); err == nil {
		t.Error("a state of 65 bytes was kept")
	}
}

// O11: keys keep their role; one that the program does not know may do nothing.
// Tags that machines said they have are claims from now on.
func TestMigrate_KeepsRolesAndTakesSaidTagsAsClaims(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	openAt(t, path, 16,
		`INSERT INTO api_key (id, owner, role, tags, hash, created_at, expires_at) VALUES ('k1', 'alice', 'deploy', '["web"]', 'h', 1, 0)`,
		`INSERT INTO machine (id, lifecycle, operator_tags, signed_tags, created_at) VALUES ('web-01', 'active', '["web"]', '["prod"]', 1)`)
	s := open(t, path)
	k, err := s.Key(t.Context(), "k1")
	if err != nil || k.Role != fleet.RoleDeploy {
		t.Errorf("the key is %+v, %v", k, err)
	}
	write(t, s, func(tx *Tx) error {
		return tx.AddKey(t.Context(), fleet.Key{ID: "k2", Owner: "bob", Role: fleet.RoleAuditor}, fleet.SHA256(nil))
	})
	m, err := s.Machine(t.Context(), "web-01")
	if err != nil || !slices.Equal(m.ClaimedTags, []fleet.Tag{"prod"}) || !slices.Equal(m.Tags.Effective, []fleet.Tag{"web"}) {
		t.Errorf("the machine is %+v, %v", m, err)
	}
}

// H20, O11: what is left of the deadlines of the version before is left of them
// after the change to running time, which begins where that version's clock was
// last noted. What it writes to the file later is found by its wall clock.
func TestMigrate_DeadlinesKeepWhatIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	openAt(t, path, 27,
		`INSERT INTO release (digest, line, sequence, envelope, header, registered_at, registered_by) VALUES ('d', 'main', 1, '{}', '{}', 1, 'key:alice')`,
		`INSERT INTO machine (id, lifecycle, operator_tags, created_at) VALUES ('web-01', 'active', '[]', 1), ('web-02', 'active', '[]', 1)`,
		`INSERT INTO rollout (id, release_digest, spec, state, why, batch, machines, created_at, created_by, started_at, ended_at, progress_at, acknowledged, wake_at, version)
			VALUES ('r1', 'd', '{}', 'running', '', 0, 2, 1000, 'key:alice', 1000, 0, 1200, 0, 1900, 1)`,
		`INSERT INTO batch (rollout_id, position, state, why, size, counts, opened_at, soak_until, ended_at, approved, approved_by, acknowledged)
			VALUES ('r1', 0, 'open', '', 2, '{}', 1000, 0, 0, 0, '', 0)`,
		`INSERT INTO assignment (rollout_id, machine_id, batch, state, why, attempt, digest, store_path, previous_digest, previous_path,
			outcome, reason, message, checks, offered_at, deadline, healthy_at, ended_at, ever_offered)
			VALUES ('r1', 'web-01', 0, 'healthy', '', 1, 'd', 'p', '', '', 'live', '', '', '[]', 1000, 0, 1200, 1200, 1),
			('r1', 'web-02', 0, 'offered', '', 1, 'd', 'p', '', '', '', '', '', '[]', 1000, 1900, 0, 0, 1)`,
		`INSERT INTO audit (seq, at, actor, action, subject, body, hash) VALUES (1, 9000, 'a', 'b', 'c', '{}', ''), (2, 1300, 'a', 'b', 'c', '{}', '')`, // its clock was ahead, once
		`INSERT INTO event (id, at, rollout_id, machine_id, body) VALUES (1, 1250, '', '', '{}')`,
	)
	s := open(t, path)
	run, ok, err := s.RunningTime(t.Context())
	if want := (RunningTime{Run: 1300, Wall: 1300}); run != want || !ok || err != nil {
		t.Errorf("running time begins at %+v, %t, %v", run, ok, err)
	}
	r, err := s.Rollout(t.Context(), "r1")
	if err != nil || r.ProgressRun != 1200 || r.WakeAt != 1900 {
		t.Errorf("rollout %+v, %v", r, err)
	}
	b, err := s.Batches(t.Context(), "r1")
	if err != nil || b[0].OpenedRun != 1000 {
		t.Errorf("batches %+v, %v", b, err)
	}
	a, err := s.AllAssignments(t.Context(), "r1")
	if err != nil || a[0].HealthyRun != 1200 || a[1].OfferedRun != 1000 || a[1].Deadline != 1900 {
		t.Errorf("assignments %+v, %v", a, err)
	}
	write(t, s, func(tx *Tx) error {
		_, err = tx.exec(t.Context(), `UPDATE assignment SET healthy_at = 1500, healthy_run = 0 WHERE machine_id = 'web-01'`)
		return err
	})
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	healthy, err := list(t.Context(), open(t, path).q, column[int64], `SELECT healthy_run FROM assignment WHERE machine_id = 'web-01'`)
	if err != nil || !slices.Equal(healthy, []int64{1500}) {
		t.Errorf("what the version before wrote is measured as %v, %v", healthy, err)
	}
}
