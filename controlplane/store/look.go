// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
)

// metaOpen says whether a process has the file open for writing: "1" after one
// that did not close it.
const metaOpen = "open"

// begin notes that the file is open, in the file itself and not only in its log.
func (s *Store) begin(ctx context.Context) error {
	was, err := (Reader{q: s.writer}).Meta(ctx, metaOpen)
	if err != nil {
		return err
	}
	s.unclean = was == "1"
	s.schema, err = s.noteOpen(ctx)
	if fleet.ErrorCode(dbfiles.Located(err, s.path)) != fleet.StorageFull {
		return err
	}
	// It serves what needs no room, and says why it takes no writes.
	s.unnoted, s.writer.lost = true, nil
	s.note(err)
	return nil
}

// noteOpen notes in the file that it is open, and by which program.
func (s *Store) noteOpen(ctx context.Context) (schema Schema, err error) {
	tx := &Tx{Reader{q: s.writer}}
	if err = tx.measureHealthy(ctx); err != nil {
		return s.schema, err
	}
	if schema, err = s.schema.sign(ctx, tx, s.version); err != nil {
		return schema, err
	}
	if err = tx.SetMeta(ctx, metaOpen, "1"); err != nil {
		return schema, err
	}
	_, err = s.checkpoint(ctx)
	return schema, err
}

// noteLater does so when there is room again.
func (s *Store) noteLater() {
	s.writer.lost = nil
	_, err := s.noteOpen(context.Background())
	s.unnoted = err != nil
	s.note(dbfiles.StorageError(err))
}

// end notes that the file is closed. What cannot be noted then is looked at when
// the file is opened again.
func (s *Store) end() error {
	ctx := context.Background()
	s.writer.lost = nil
	return (&Tx{Reader{q: s.writer}}).SetMeta(ctx, metaOpen, "0")
}

// checkpoint moves the log into the file, and cuts it to nothing. It waits for no
// reader: whole is false if one needs a part of the log.
func (s *Store) checkpoint(ctx context.Context) (whole bool, err error) {
	if err = s.shrunk(); err != nil {
		return false, err
	}
	if _, err = s.writer.ExecContext(ctx, "PRAGMA busy_timeout(0)"); err != nil {
		return false, err
	}
	busy, _, err := first(ctx, s.writer, func(r row) (busy int, err error) {
		var log, moved int
		return busy, r.Scan(&busy, &log, &moved)
	}, "PRAGMA wal_checkpoint(TRUNCATE)")
	if dbfiles.ResultCode(err) == sqlite3.SQLITE_BUSY {
		busy, err = 1, nil
	}
	_, again := s.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout(%d)", busyTimeout))
	if err = errors.Join(err, again); err != nil || busy != 0 {
		return false, err
	}
	return true, s.measure(ctx)
}

// measure compares the number of pages with the size of the file, into which the
// log was moved.
func (s *Store) measure(ctx context.Context) error {
	size, err := fileSize(ctx, s.writer)
	if err != nil {
		return err
	}
	if s.size, err = s.stat(); err == nil && s.size != size {
		return damagedFile("the file has %d bytes, and should have %d", s.size, size)
	}
	return err
}

// shrunk returns an error if the file has become shorter. A checkpoint would fill
// what is missing with nothing.
func (s *Store) shrunk() error {
	have, err := s.stat()
	if err == nil && have < s.size {
		return damagedFile("the file has %d bytes, and had %d: it was cut", have, s.size)
	}
	return err
}

// stat is how many bytes the file has.
func (s *Store) stat() (int64, error) {
	info, err := os.Stat(s.path)
	switch {
	case err == nil:
		return info.Size(), nil
	case errors.Is(err, fs.ErrPermission): // a folder that may not be entered is no damage
		return s.size, fleet.Errorf(fleet.StorageFailed, "look at the database: %w", err)
	}
	return s.size, damagedFile("the file is gone: %w", err)
}

func damagedFile(format string, args ...any) error {
	return fleet.Errorf(fleet.StorageFailed, "the control plane's database is damaged: "+format, args...).WithHint("%s", dbfiles.RestoreOne)
}

// tidy makes a checkpoint and looks at the file. It runs on the writer's goroutine.
func (s *Store) tidy() {
	ctx := context.Background()
	s.writer.lost = nil
	_, err := s.checkpoint(ctx)
	if err == nil {
		err = s.look(ctx)
	}
	switch {
	case err == nil:
	case fleet.ErrorCode(err) == fleet.StorageFull || errors.Is(err, fs.ErrPermission):
		s.note(err)
	default:
		s.damaged(err)
	}
}

// damaged keeps what was found: it does not go away by itself.
func (s *Store) damaged(err error) {
	s.condition.damage.CompareAndSwap(nil, &err)
}

// newest is how many of the newest entries of the audit trail look reads.
const newest = 32

// Look reads the schema and the newest rows. The error's code is StorageFailed if
// they are not what was written.
func (s *Store) Look(ctx context.Context) error { return s.look(ctx) }

// look reads the schema and the newest rows, of which a file that was damaged, or
// put together from two, lacks some. It costs little.
func (s *Store) look(ctx context.Context) error {
	if err := s.schema.check(ctx, s.reads); err != nil {
		return err
	}
	return s.Read(ctx, func(r Reader) error {
		head, err := r.AuditHead(ctx)
		if err != nil {
			return err
		}
		if known := s.Committed(); head.Size < known.Size {
			return damagedFile("the audit trail ends at entry %d, and entry %d was written", head.Size, known.Size)
		}
		if err = r.lookAtAudit(ctx, head); err != nil {
			return err
		}
		oldest, last, err := r.EventRange(ctx)
		if err != nil {
			return err
		}
		if last > 0 {
			if _, err := r.Events(ctx, max(oldest, last-newest)-1, fleet.EventFilter{}, newest); err != nil {
				return damagedFile("the newest events: %w", err)
			}
		}
		return nil
	})
}

// lookAtAudit checks that the newest entries follow each other.
func (r Reader) lookAtAudit(ctx context.Context, head fleet.AuditHead) error {
	entries, err := list(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit WHERE seq > $1 ORDER BY seq`, head.Size-newest)
	if err != nil {
		return err
	}
	var chain fleet.AuditChain
	for i, e := range entries {
		if i == 0 && e.Seq > 1 { // what it follows is not read
			chain = fleet.AuditChain{Size: e.Seq, Head: e.Hash}
			continue
		}
		if err := chain.Add(e); err != nil {
			return damagedFile("%w", err)
		}
	}
	return nil
}

// examine looks at the whole file, beside what else goes on, after a process that
// did not close it. It ends with the store.
func (s *Store) examine() {
	defer close(s.examined)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	found, err := s.Damage(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.damaged(err)
	case len(found) > 0:
		s.damaged(damagedFile("%s", strings.Join(found[:min(len(found), 3)], "; ")))
	}
}

// Examined is closed when the file has been looked at as a whole, which happens
// after a process that did not close it.
func (s *Store) Examined() <-chan struct{} { return s.examined }

// Damage looks at the structure of the whole file: each page is read. It returns
// what it found, at most ten lines.
func (r Reader) Damage(ctx context.Context) ([]string, error) {
	found, err := list(ctx, r.q, column[string], `PRAGMA quick_check(10)`)
	if err != nil {
		return nil, fmt.Errorf("check the database: %w", err)
	}
	if len(found) == 1 && found[0] == "ok" {
		return nil, nil
	}
	return found, nil
}
