// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// addFleet makes machines known that have said what an agent says.
func addFleet(ctx context.Context, tx *Tx, n int) error {
	for i := range n {
		m := machine(fleet.MachineID(fmt.Sprintf("m-%05d", i)))
		if err := tx.AddMachine(ctx, m); err != nil {
			return err
		}
		path := "/nix/store/" + fleet.StorePath(strings.Repeat("a", 32)) + "-nixos-system"
		m.Generations = fleet.Generations{Running: path, Booted: path, BootDefault: path}
		m.RunsRelease, m.BootID, m.LastContact = digestA, strings.Repeat("b", 36), 10
		m.Checks = []fleet.HealthCheckResult{{Name: "multi-user", Status: fleet.HealthCheckPassing}}
		if err := tx.UpdateMachineStatus(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// A contact is at most 16 bytes on the disk for each check-in of a long poll, of
// which a machine makes eleven between two writes of the contacts.
func TestTouchMachines_WritesLittle(t *testing.T) {
	const machines, most = 2000, 16
	const checkIns = machines * 10 * 60 / 55
	path := filepath.Join(t.TempDir(), "a.db")
	s, ctx := open(t, path), t.Context()
	write(t, s, func(tx *Tx) error { return addFleet(ctx, tx, machines) })
	touch := func(at int64) {
		contacts := map[fleet.MachineID]int64{}
		for i := range machines {
			contacts[fleet.MachineID(fmt.Sprintf("m-%05d", i))] = at
		}
		write(t, s, func(tx *Tx) error { return tx.TouchMachines(ctx, contacts) })
	}
	touch(1_700_000_000_000)
	if _, err := s.reads.ExecContext(ctx, `PRAGMA query_only(0); PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	touch(1_700_000_600_000)
	wal, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	// What is in the log is written again when it is moved to the database.
	if got := 2 * wal.Size() / checkIns; got == 0 || got > most {
		t.Errorf("%d bytes a check-in, want 1 to %d", got, most)
	}
	m, err := s.Machine(ctx, "m-00001")
	if err != nil || m.LastContact != 1_700_000_600_000 {
		t.Errorf("last contact %d, %v", m.LastContact, err)
	}
	m.LastContact++ // its row is written later than the contacts
	write(t, s, func(tx *Tx) error { return tx.UpdateMachineStatus(ctx, m) })
	if again, err := s.Machine(ctx, "m-00001"); err != nil || again.LastContact != m.LastContact {
		t.Errorf("last contact %d, want %d, %v", again.LastContact, m.LastContact, err)
	}
}
