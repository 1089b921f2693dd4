// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
)

// pages sets how many pages the file may have: more are a full disk for SQLite.
func pages(t *testing.T, s *Store, most int64) {
	t.Helper()
	write(t, s, func(tx *Tx) error { // on the writer's own goroutine
		_, err := tx.q.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", most))
		return err
	})
}

// Whatever a write does after the disk was full, nothing of it or of those that
// share its transaction is stored, and all of them are told. When there is room,
// the store takes writes again without being asked.
func TestWrite_OnAFullDiskStoresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "a.db"))
		have, _, err := first(t.Context(), s.reads, column[int64], `PRAGMA page_count`)
		if err != nil {
			t.Fatal(err)
		}
		pages(t, s, have)
		large := strings.Repeat("x", 1<<20)
		swallow := func(tx *Tx) error {
			_ = tx.SetMeta(t.Context(), "large", large)
			_ = tx.SetMeta(t.Context(), "small", "x") // would be a transaction of its own
			return nil
		}
		plain := func(tx *Tx) error {
			return errors.Join(tx.SetMeta(t.Context(), "before", "x"), tx.SetMeta(t.Context(), "large", large))
		}
		errs := make([]error, 20)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = s.Write(t.Context(), []func(*Tx) error{swallow, plain}[i%2]) })
		}
		wg.Wait()
		for _, err := range errs {
			wantCode(t, err, fleet.StorageFull)
		}
		for _, name := range []string{"small", "large", "before"} {
			if v, err := s.Meta(t.Context(), name); v != "" || err != nil {
				t.Fatalf("%s was stored (%v)", name, err)
			}
		}
		if err := s.Trouble(); fleet.ErrorCode(err) != fleet.StorageFull || !strings.Contains(err.Error(), filepath.Dir(s.path)) {
			t.Fatalf("trouble %v", err)
		}
		pages(t, s, 1<<30)
		<-time.After(2 * probeEvery)
		synctest.Wait()
		if err := s.Trouble(); err != nil {
			t.Fatalf("after there is room: %v", err)
		}
		write(t, s, plain)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// After a peak the log is cut when there are no more writes, also where a reader
// has kept it from being so before.
func TestLog_ShrinksAfterAPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "a.db"))
		err := s.Read(t.Context(), func(r Reader) error {
			if _, err := r.Meta(t.Context(), "x"); err != nil {
				return err
			}
			for n := range 3 * keptLog >> 20 {
				write(t, s, func(tx *Tx) error { return tx.SetMeta(t.Context(), fmt.Sprint(n), strings.Repeat("x", 1<<20)) })
			}
			<-time.After(2 * idleAfter) // the reader still reads
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if size := dbfiles.LogSize(s.path); size < 3*keptLog {
			t.Fatalf("the log has %d bytes: there was no peak", size)
		}
		write(t, s, func(tx *Tx) error { return tx.SetMeta(t.Context(), "x", "y") })
		<-time.After(2 * idleAfter)
		synctest.Wait()
		if size := dbfiles.LogSize(s.path); size > keptLog {
			t.Errorf("the log has %d bytes after a rest", size)
		}
		if err := s.Trouble(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// What is cut off the file while it is open is found before a checkpoint fills it
// up again.
func TestTidy_FindsAFileThatWasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "a.db"))
		write(t, s, func(tx *Tx) error { return tx.SetMeta(t.Context(), "x", strings.Repeat("x", 1<<20)) })
		for range minCommits {
			write(t, s, func(tx *Tx) error { return tx.SetMeta(t.Context(), "n", "x") })
		}
		<-time.After(2 * idleAfter)
		synctest.Wait()
		if err := s.Trouble(); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(s.path, 100<<10); err != nil {
			t.Fatal(err)
		}
		for range minCommits {
			write(t, s, func(tx *Tx) error { return tx.SetMeta(t.Context(), "n", "y") })
		}
		<-time.After(2 * idleAfter)
		synctest.Wait()
		if err := s.Trouble(); fleet.ErrorCode(err) != fleet.StorageFailed || !strings.Contains(err.Error(), "it was cut") {
			t.Errorf("trouble %v", err)
		}
		_ = s.Close() // as well as it can
	})
}

// Another program's database is neither migrated nor read.
func TestOpen_RefusesAnotherProgramsFile(t *testing.T) {
	for name, statements := range map[string]string{
		"tables":     `CREATE TABLE dashboard (id TEXT)`,
		"migrations": `CREATE TABLE dashboard (id TEXT); CREATE TABLE goose_db_version (version_id INTEGER, is_applied INTEGER); INSERT INTO goose_db_version VALUES (7, 1)`,
	} {
		path := filepath.Join(t.TempDir(), "a.db")
		tamper(t, path, statements)
		for _, readOnly := range []bool{false, true} {
			_, err := Open(t.Context(), Options{Path: path, ReadOnly: readOnly})
			wantCode(t, err, fleet.Invalid)
			if !strings.Contains(err.Error(), "is not a control plane's database") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "a.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, path, `DROP TABLE claim`)
	for _, readOnly := range []bool{false, true} {
		_, err := Open(t.Context(), Options{Path: path, ReadOnly: readOnly})
		wantCode(t, err, fleet.StorageFailed)
	}
}
