// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// midway starts a rollout over machines that hold polls in processes of their own,
// one machine a batch, and returns when it is under way.
func midway(t *testing.T, s size) (*bench, fleet.RolloutID) {
	t.Helper()
	b := &bench{root: t, t: t, size: s, control: control{root: t, place: newPlace(t)}, fleet: trusttest.New(t, "acme", nil)}
	b.setUp()
	b.poll()
	spec := fleet.RolloutSpec{Strategy: fleet.Staged, SoakMs: 250} // a batch takes so long at least
	for range s.machines {
		spec.Batches = append(spec.Batches, fleet.Amount{N: 1})
	}
	id, _ := b.rollout(spec)
	b.passed(id, 3)
	return b, id
}

// passed waits until so many batches have passed.
func (b *bench) passed(id fleet.RolloutID, batches int) {
	b.t.Helper()
	until(b.t, time.Minute, lookEvery, fmt.Sprintf("%d batches have passed", batches), func() bool { return b.batch(id) >= batches })
}

// batch is the batch at work of a rollout that runs.
func (b *bench) batch(id fleet.RolloutID) int {
	b.t.Helper()
	d := must(b.admin.Rollout(context.Background(), id))(b.t)
	if d.State != fleet.RolloutRunning {
		b.t.Fatalf("the rollout is %s: %s", d.State, d.Why)
	}
	return d.Batch
}

// allHealthy fails the test unless each machine is healthy in the rollout, and was
// ordered to apply it once.
func (b *bench) allHealthy(id fleet.RolloutID) {
	b.t.Helper()
	n := 0
	for a, err := range api.All(context.Background(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
		return b.admin.Assignments(ctx, id, fleet.AssignmentFilter{Batch: -1}, p)
	}) {
		if err != nil {
			b.t.Fatal(err)
		}
		if n++; a.State != fleet.AssignHealthy || a.Attempt != 1 {
			b.t.Errorf("%s is %s in attempt %d: %s %s", a.Machine, a.State, a.Attempt, a.Reason, a.Message)
		}
	}
	if n != b.machines {
		b.t.Errorf("%d of %d machines have a part in it", n, b.machines)
	}
}

// E12: a rollout stands still while the disk is full, also over a crash, and is
// carried out to its end when there is room.
func TestFullDisk_HoldsARolloutAndLosesNothing(t *testing.T) {
	b, id := midway(t, size{machines: 40, disk: 24 << 20})
	for round := range 2 {
		empty := fill(t, b.dir)
		until(t, 20*time.Second, lookEvery, "it says that the disk is full", func() bool {
			status, text := b.readyz()
			return status == http.StatusServiceUnavailable && strings.HasPrefix(text, "storage-full: ")
		})
		at := b.batch(id)
		if round == 1 {
			b.kill()
			empty()
			b.start()
		} else {
			empty()
		}
		b.passed(id, at+2)
	}
	completed(b.t, b.admin, id, 5*time.Minute)
	b.allHealthy(id)
	b.stop()
	b.sound()
}

// newer builds the control plane of a version to come, which adds to the database.
func newer(t *testing.T) (program string) {
	t.Helper()
	dir := t.TempDir()
	root := must(filepath.Abs("../.."))(t)
	write := func(name, text string) string {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		return filepath.Join(dir, name)
	}
	migration := write("next.sql", `-- +goose Up
CREATE TABLE next_note (rollout_id TEXT NOT NULL PRIMARY KEY REFERENCES rollout (id) ON DELETE CASCADE, text TEXT NOT NULL DEFAULT '');
ALTER TABLE rollout ADD COLUMN next_word TEXT NOT NULL DEFAULT 'none';
ALTER TABLE assignment ADD COLUMN next_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE machine ADD COLUMN next_word TEXT NOT NULL DEFAULT '';
CREATE INDEX next_note_by_text ON next_note (text);
INSERT INTO next_note (rollout_id) SELECT id FROM rollout;
`)
	overlay := write("overlay.json", string(must(json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "controlplane/store/migrations/9000_next.sql"): migration,
	}}))(t)))
	program = filepath.Join(dir, "nixfleet-control-plane")
	must(proc.Run(t.Context(), proc.Cmd{
		Path: "go", Args: []string{"build", "-overlay", overlay, "-ldflags", "-X main.version=9.0.0", "-o", program, "./cmd/nixfleet-control-plane"},
		Dir: root, Env: append(os.Environ(), "CGO_ENABLED=0"), Timeout: 5 * time.Minute,
	}))(t)
	return program
}

// H20, O11: the control plane's machine is rolled to a system whose control plane
// adds to the database, and back, in the middle of a rollout. It goes on.
func TestControlPlane_IsRolledForwardAndBackInTheMiddleOfARollout(t *testing.T) {
	next := newer(t)
	b, id := midway(t, size{machines: 80})
	schema := func() store.Schema {
		t.Helper()
		_, out, stderr := run(t.Context(), "doctor", "--config", b.config, "--json")
		var v struct{ Storage struct{ Schema store.Schema } }
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatalf("%v: %s %s", err, out, stderr)
		}
		return v.Storage.Schema
	}
	before := schema()
	for range 2 { // a rollback, and the mended release
		b.stop()
		b.startProgram(next)
		b.passed(id, b.batch(id)+2)
		if got := schema(); got.Version != 9000 || got.Program != "9.0.0" || got.Reader > before.Version {
			t.Fatalf("the newer control plane left %+v", got)
		}
		b.kill() // a rollback waits for nobody
		b.start()
		b.passed(id, b.batch(id)+2)
	}
	completed(b.t, b.admin, id, 5*time.Minute)
	b.allHealthy(id)
	b.stop()
	b.sound()
	copies := must(dbfiles.Copies(b.database()))(t)
	if len(copies) != 1 || copies[0].Schema != before.Version {
		t.Errorf("copies from before the migration: %+v", copies)
	}
}
