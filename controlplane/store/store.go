// SPDX-License-Identifier: AGPL-3.0-only

// Package store keeps what the control plane knows in one SQLite file. It is
// the only place with SQL.
//
// Reads go to a pool of read-only connections; writes go through one
// connection, many callers to a transaction (Write). What Write has answered
// is on the disk. The package never decides anything about the fleet and never
// reads a clock.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	_ "modernc.org/sqlite" // the driver, by its name

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Options say where the store is.
type Options struct {
	Path string // of the SQLite file; made if it does not exist
	// ReadOnly opens an existing file for looking only, beside a control plane
	// that may be running on it. Write then fails.
	ReadOnly bool
	// Version is that of the program, which the file names to older programs.
	Version string
	// Migrating is called, if it is set, when the file is to be copied and migrated:
	// both take a while for a large one.
	Migrating func(from Schema)
}

// Store is an open SQLite file. Its read methods may be called by many
// goroutines at once.
type Store struct {
	Reader
	path   string
	reads  *sql.DB
	writes *sql.DB
	writer *writer  // nil: open for reading only
	lock   *os.File // of the folder
	schema Schema
	// version is that of the program.
	version string
	// condition is how the disk and the file are.
	condition condition
	// size is how many bytes the file had after the last whole checkpoint: it never
	// has fewer. Of the writer.
	size    int64
	unclean bool // the process before did not close the file
	// unnoted: that the file is open could not be noted in it. Of the writer.
	unnoted bool
	// committed is the audit trail's head as the last transaction left it.
	committed atomic.Pointer[fleet.AuditHead]

	jobs    chan *job
	closing chan struct{}
	stopped chan struct{} // closed when serve has returned
	// examined is closed when the look at the whole file has ended.
	examined chan struct{}
	once     sync.Once
}

// Open opens the file, brings its schema up to date and starts the writer.
// The error's code is Conflict if another process has the folder open or the
// schema is too new, NotFound for a file to read that does not exist, Invalid for
// one of another program, StorageFull or StorageFailed if disk or file fail. Close
// ends it.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{
		path: o.Path, jobs: make(chan *job), closing: make(chan struct{}), stopped: make(chan struct{}), examined: make(chan struct{}),
	}
	if err := s.open(ctx, o); err != nil {
		err = dbfiles.Located(dbfiles.StorageError(err), o.Path)
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.Path, err), s.release())
	}
	if o.ReadOnly {
		close(s.stopped)
		close(s.examined)
		return s, nil
	}
	go s.serve()
	if s.unclean {
		go s.examine()
	} else {
		close(s.examined)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, o Options) (err error) {
	if o.ReadOnly {
		if _, err = os.Stat(o.Path); errors.Is(err, fs.ErrNotExist) {
			return fleet.Errorf(fleet.NotFound, "there is no such file")
		}
	} else if err = s.openWriter(ctx, o); err != nil {
		return err
	}
	if s.reads, err = sql.Open("sqlite", dsn(o.Path, "query_only(1)")); err != nil {
		return err
	}
	readers := max(4, runtime.NumCPU())
	s.reads.SetMaxOpenConns(readers)
	s.reads.SetMaxIdleConns(readers)
	s.Reader = Reader{q: s.reads}
	if o.ReadOnly {
		return s.openReader(ctx)
	}
	if err = s.reads.PingContext(ctx); err != nil {
		return err
	}
	head, err := s.AuditHead(ctx)
	if err != nil {
		return err
	}
	s.committed.Store(&head)
	if err = s.look(ctx); fleet.ErrorCode(err) != fleet.StorageFailed {
		return err
	}
	s.damaged(err) // it serves, so that people can look, and is not ready
	return nil
}

// openReader makes sure that the file is a control plane's, of a schema that this
// program can read. It may be older.
func (s *Store) openReader(ctx context.Context) (err error) {
	if s.schema, err = readSchema(ctx, s.reads); err != nil {
		return err
	}
	if refused := s.schema.readable(); refused != nil {
		return dbfiles.Refusal(refused, s.path, s.schema.Known)
	}
	if s.schema.Version < s.schema.Known {
		return nil
	}
	return s.schema.check(ctx, s.reads)
}

// Schema says which migrations the file has had. One that is open for reading may
// lack some of this program's.
func (s *Store) Schema() Schema { return s.schema }

func (s *Store) openWriter(ctx context.Context, o Options) (err error) {
	path := o.Path
	if s.lock, err = lockFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if err = create(ctx, path); err != nil {
		return err
	}
	// A pass of the engine changes more pages than fit into SQLite's own cache of 2
	// MiB, which then writes them more than once.
	if s.writes, err = sql.Open("sqlite", dsn(path, "cache_size(-16384)", fmt.Sprintf("wal_autocheckpoint(%d)", logPages))); err != nil {
		return err
	}
	s.writes.SetMaxOpenConns(1)
	if err = s.migrate(ctx, o); err != nil {
		return err
	}
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return err
	}
	s.writer = &writer{conn: conn, stmts: map[string]*sql.Stmt{}}
	return s.begin(ctx)
}

// busyTimeout is for how many milliseconds a statement waits for another process.
const busyTimeout = 10_000

// logPages is after how many pages of the write-ahead log SQLite moves them into
// the file. A pass of the engine changes more pages than its own 1,000.
const logPages = 4096

// keptLog is how many bytes the write-ahead log keeps on the disk after a peak:
// somewhat more than logPages, so that it is not cut and grown again and again.
const keptLog = (logPages + logPages/4) * 4096

// dsn names the file with the settings that every connection needs. Synchronous
// FULL makes COMMIT wait for the disk.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{
		"busy_timeout(" + strconv.Itoa(busyTimeout) + ")", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "temp_store(MEMORY)",
		"journal_size_limit(" + strconv.Itoa(keptLog) + ")",
	}, pragmas...)}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// lockFolder keeps a second process off the files: the engine holds state in
// memory that another writer would make wrong. The lock is the folder's, since a
// file in it could be removed, and a process that opens and closes the database
// by itself takes SQLite's own locks away.
func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fleet.Errorf(fleet.Conflict, "another control plane has the folder open").
			WithHint("stop the running control plane first"), f.Close())
	}
	return f, nil
}

// create makes a new store, whole, where there is no file: one without tables was
// cut, and is not taken for a new one. A file that exists is SQLite's alone; it
// gives its own files the mode of the database.
func create(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm"} { // of a start that was interrupted
		if err := atomicfile.Remove(fresh + suffix); err != nil {
			return err
		}
	}
	if err := atomicfile.Create(fresh, nil, 0o600); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(fresh))
	if err != nil {
		return err
	}
	p, err := provider(db)
	if err == nil {
		_, err = p.Up(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("make the database: %w", err)
	}
	return atomicfile.Publish(fresh, path)
}

// Close waits for the writes that were accepted, then closes the file. Later
// writes fail with code Unavailable.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		<-s.stopped
		<-s.examined
		if s.writer != nil {
			err = s.end()
		}
		err = errors.Join(err, s.release())
	})
	return err
}

func (s *Store) release() error {
	var errs []error
	if s.reads != nil {
		errs = append(errs, s.reads.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	if s.writes != nil {
		errs = append(errs, s.writes.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
