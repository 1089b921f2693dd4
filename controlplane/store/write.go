// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
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
	again bool // write may run more than once
	// taken is set by the first of two: the writer that runs the job, or the
	// caller that gives up.
	taken atomic.Bool
	err   error
	done  chan struct{}
}

// Write runs fn in a transaction and returns after its COMMIT is on the disk.
// Other writes may share the transaction; each has its own savepoint then, so that
// an error of one undoes that one alone. fn must not keep tx, and must not
// call Write. After ctx has ended, Write still returns the result of an fn that
// had begun. Errors of fn are returned as they are; Unavailable means closed,
// StorageFull and StorageFailed that nothing was stored (Trouble).
func (s *Store) Write(ctx context.Context, fn func(tx *Tx) error) error {
	return s.do(ctx, &job{write: fn, done: make(chan struct{})})
}

// WriteAgain is Write for an fn that may run more than once, of which only the last
// counts. It costs less: such writes need no savepoint until one of them fails.
func (s *Store) WriteAgain(ctx context.Context, fn func(tx *Tx) error) error {
	return s.do(ctx, &job{write: fn, again: true, done: make(chan struct{})})
}

func (s *Store) do(ctx context.Context, j *job) error {
	if s.writer == nil {
		return fleet.Errorf(fleet.Unavailable, "the store is open for reading only")
	}
	if err := ctx.Err(); err != nil {
		return err
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

// WriteAudited is Write with an entry of the audit trail.
func (s *Store) WriteAudited(ctx context.Context, event fleet.AuditEvent, fn func(tx *Tx) error) error {
	return s.Write(ctx, func(tx *Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.AddAudit(ctx, event)
	})
}

// serve is the writer: it alone uses s.writer.
func (s *Store) serve() {
	defer close(s.stopped)
	again, idle := time.NewTimer(probeEvery), time.NewTimer(idleAfter)
	defer again.Stop()
	defer idle.Stop()
	commits := 0 // since the last checkpoint that we asked for
	for {
		again.Stop()
		if s.condition.trouble.Load() != nil {
			again.Reset(probeEvery)
		}
		idle.Stop()
		if commits > 0 {
			idle.Reset(idleAfter)
		}
		select {
		case j := <-s.jobs:
			s.commit(s.gather(j))
			if commits++; commits == maxCommits {
				commits = 0
				s.tidy()
			}
		case <-idle.C:
			if commits >= minCommits || dbfiles.LogSize(s.path) > keptLog {
				s.tidy()
			}
			commits = 0
		case <-again.C:
			s.commit([]*job{{write: probe, done: make(chan struct{})}})
		case <-s.closing:
			return
		}
	}
}

// The writer makes a checkpoint, and looks at the file, when there was no write
// for idleAfter and there were at least minCommits transactions before, or the log
// is long; and under load every maxCommits transactions. SQLite makes checkpoints
// by itself too, and tells nobody how they end.
const (
	idleAfter  = 5 * time.Second
	minCommits = 256
	maxCommits = 4096
)

// probeEvery is how often a write is tried while none goes well.
const probeEvery = time.Second

// probe is a write that changes nothing which anybody reads, but needs the disk.
func probe(tx *Tx) error {
	ctx := context.Background()
	last, err := tx.Meta(ctx, metaProbe)
	if err != nil {
		return err
	}
	n, _ := strconv.ParseInt(last, 10, 64) // 0 at first
	return tx.SetMeta(ctx, metaProbe, strconv.FormatInt(n+1, 10))
}

const metaProbe = "probe"

// gather adds the writes that wait already.
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

// commit runs the writes of a group, in at most two transactions: in the first those
// that may run again. It needs no savepoint, with which SQLite copies every page that
// is written: if one of them fails, it is undone, and all of them run in the second.
func (s *Store) commit(group []*job) {
	var together, apart []*job
	for _, j := range group {
		switch {
		case !j.taken.CompareAndSwap(false, true):
			close(j.done) // its caller has given up
		case j.again:
			together = append(together, j)
		default:
			apart = append(apart, j)
		}
	}
	if len(together) > 0 && !s.transaction(together, s.writer.runOnce) {
		apart = append(together, apart...)
	}
	switch len(apart) {
	case 0:
	case 1:
		if !s.transaction(apart, s.writer.runOnce) {
			close(apart[0].done)
		}
	default:
		s.transaction(apart, s.writer.runSaved)
	}
}

// transaction runs writes in one, and has their callers go on once it is on the disk.
// It reports false, and leaves them waiting, if run failed with errUndone: then nothing
// of them is.
func (s *Store) transaction(jobs []*job, run func(context.Context, []*job) error) bool {
	// The transaction belongs to many callers; none of theirs may end it.
	head, err := s.writer.transact(context.Background(), jobs, run)
	if errors.Is(err, errUndone) {
		return false
	}
	s.note(err)
	if err == nil {
		s.committed.Store(&head)
		if s.unnoted {
			s.noteLater()
		}
	}
	for _, j := range jobs {
		if j.err == nil {
			j.err = err
		}
		close(j.done)
	}
	return true
}

// errUndone is the error of a transaction in which a write has failed, by itself.
var errUndone = errors.New("a write has failed")

// writer is the one connection that writes. Its statements are compiled once:
// their texts are few.
type writer struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	// lost is why the transaction is: SQLite has rolled it back, and what is
	// written now would be a transaction of its own.
	lost error
}

// transact returns the head of the audit trail that it has committed.
func (w *writer) transact(ctx context.Context, jobs []*job, run func(context.Context, []*job) error) (head fleet.AuditHead, err error) {
	if err = w.begin(ctx); err != nil {
		return head, fmt.Errorf("begin transaction: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.rollback(ctx))
		}
	}()
	if err = run(ctx, jobs); err != nil {
		return head, err
	}
	if head, err = (Reader{q: w}).AuditHead(ctx); err != nil {
		return head, err
	}
	if _, err = w.ExecContext(ctx, "COMMIT"); err != nil {
		return head, fmt.Errorf("commit transaction: %w", err)
	}
	return head, nil
}

// begin begins a transaction, also where the end of the one before failed.
func (w *writer) begin(ctx context.Context) error {
	w.lost = nil
	_, err := w.ExecContext(ctx, "BEGIN IMMEDIATE")
	if dbfiles.ResultCode(err) != sqlite3.SQLITE_ERROR {
		return err
	}
	if err = w.rollback(ctx); err != nil {
		return err
	}
	_, err = w.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

// rollback undoes the transaction, unless SQLite has done so.
func (w *writer) rollback(ctx context.Context) error {
	w.lost = nil
	if _, err := w.ExecContext(ctx, "ROLLBACK"); dbfiles.ResultCode(err) != sqlite3.SQLITE_ERROR {
		return err
	}
	return nil
}

// failed takes in an error of a statement. After one of the disk the transaction
// is lost, and with it all that callers wrote in it.
func (w *writer) failed(err error) error {
	if err = dbfiles.StorageError(err); fleet.ErrorCode(err) == fleet.StorageFull || fleet.ErrorCode(err) == fleet.StorageFailed {
		w.lost = err
	}
	return err
}

// runOnce runs writes until one fails, and returns errUndone then.
func (w *writer) runOnce(_ context.Context, jobs []*job) error {
	for _, j := range jobs {
		j.err = j.write(&Tx{Reader{q: w}})
		if w.lost != nil {
			return w.lost
		}
		if j.err != nil {
			return errUndone
		}
	}
	return nil
}

// runSaved runs each write in a savepoint of its own, and undoes those that fail. It
// returns an error only if the whole transaction is lost.
func (w *writer) runSaved(ctx context.Context, jobs []*job) error {
	for _, j := range jobs {
		if _, err := w.ExecContext(ctx, "SAVEPOINT write"); err != nil {
			return fmt.Errorf("set savepoint: %w", err)
		}
		if j.err = j.write(&Tx{Reader{q: w}}); w.lost != nil {
			return w.lost
		}
		if j.err != nil {
			if _, err := w.ExecContext(ctx, "ROLLBACK TO write"); err != nil {
				return fmt.Errorf("roll back to savepoint: %w", err)
			}
		}
		if _, err := w.ExecContext(ctx, "RELEASE write"); err != nil {
			return fmt.Errorf("release savepoint: %w", err)
		}
	}
	return nil
}

// statement compiles a statement, or finds it compiled.
func (w *writer) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := w.stmts[query]; ok {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.stmts[query] = st
	}
	return st, err
}

// ExecContext and QueryContext run statements to their end, also when the
// caller's context ends: SQLite answers an interrupted write by rolling back the
// whole transaction.
func (w *writer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx = context.WithoutCancel(ctx)
	if w.lost != nil {
		return nil, w.lost
	}
	st, err := w.statement(ctx, query)
	if err != nil {
		return nil, w.failed(err)
	}
	res, err := st.ExecContext(ctx, args...)
	return res, w.failed(err)
}

// QueryContext is like ExecContext.
func (w *writer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = context.WithoutCancel(ctx)
	if w.lost != nil {
		return nil, w.lost
	}
	st, err := w.statement(ctx, query)
	if err != nil {
		return nil, w.failed(err)
	}
	rows, err := st.QueryContext(ctx, args...)
	return rows, w.failed(err)
}

func (w *writer) close() error {
	var errs []error
	for _, st := range w.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}
