// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxGroup bounds how many writes share a transaction, and so how long the
// first of them waits.
const maxGroup = 512

// Tx is the transaction that a write runs in. It reads its own writes.
type Tx struct {
	Reader
}

// job is a write on its way through the writer.
type job struct {
	write func(*Tx) error
	// taken is set by whoever comes first: the writer that runs it, or the
	// caller that gives up.
	taken atomic.Bool
	err   error
	done  chan struct{}
}

// Write runs fn in a transaction and returns after its COMMIT is on the disk.
// Other writes may share the transaction; each has its own savepoint, so that
// an error of one undoes that one alone. fn must not keep tx, and must not
// call Write. After ctx has ended, Write still says what became of an fn that
// had begun. Errors of fn come back as they are; Unavailable means closed.
func (s *Store) Write(ctx context.Context, fn func(tx *Tx) error) error {
	j := &job{write: fn, done: make(chan struct{})}
	if s.conn == nil {
		return fleet.Errorf(fleet.Unavailable, "the store is open for reading only")
	}
	select {
	case s.jobs <- j:
	case <-s.closing:
		return fleet.Errorf(fleet.Unavailable, "the store is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
	}
	if j.taken.CompareAndSwap(false, true) {
		return ctx.Err()
	}
	<-j.done
	return j.err
}

// serve is the writer: it alone uses s.conn.
func (s *Store) serve() {
	defer close(s.stopped)
	for {
		select {
		case j := <-s.jobs:
			s.commit(s.gather(j))
		case <-s.closing:
			return
		}
	}
}

// gather takes along the writes that wait already.
func (s *Store) gather(first *job) []*job {
	group := []*job{first}
	for len(group) < maxGroup {
		select {
		case j := <-s.jobs:
			group = append(group, j)
		default:
			return group
		}
	}
	return group
}

func (s *Store) commit(group []*job) {
	// The transaction belongs to many callers; none of theirs may end it.
	ctx := context.Background()
	err := s.transact(ctx, group)
	for _, j := range group {
		if j.err == nil {
			j.err = err
		}
		close(j.done)
	}
}

func (s *Store) transact(ctx context.Context, group []*job) error {
	tx, err := s.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after COMMIT it does nothing
	for _, j := range group {
		if !j.taken.CompareAndSwap(false, true) {
			continue
		}
		if err := runSaved(ctx, tx, j); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// runSaved runs one write in its savepoint. It returns an error only if the
// whole transaction is lost.
func runSaved(ctx context.Context, tx *sql.Tx, j *job) error {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT write"); err != nil {
		return fmt.Errorf("set savepoint: %w", err)
	}
	if j.err = j.write(&Tx{Reader{q: steady{tx}}}); j.err != nil {
		if _, err := tx.ExecContext(ctx, "ROLLBACK TO write"); err != nil {
			return fmt.Errorf("roll back to savepoint: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, "RELEASE write"); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}

// steady runs statements to their end whatever becomes of a caller's context:
// SQLite answers an interrupted write by rolling back the whole transaction.
type steady struct{ tx *sql.Tx }

func (s steady) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return s.tx.ExecContext(context.WithoutCancel(ctx), query, args...)
}

func (s steady) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s.tx.QueryContext(context.WithoutCancel(ctx), query, args...)
}
