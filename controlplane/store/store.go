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
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, by its name

	"github.com/arcanesys/nixfleet/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options say where the store is.
type Options struct {
	Path string // of the SQLite file; made if it does not exist
	// ReadOnly opens an existing file for looking only, beside a control plane
	// that may be running on it. Write then fails.
	ReadOnly bool
}

// Store is an open SQLite file. Its read methods may be called by many
// goroutines at once.
type Store struct {
	Reader
	path   string
	reads  *sql.DB
	writes *sql.DB
	writer *writer // nil: open for reading only
	lock   *os.File
	// committed is the audit trail's head as the last transaction left it.
	committed atomic.Pointer[fleet.AuditHead]

	jobs    chan *job
	closing chan struct{}
	stopped chan struct{}
	once    sync.Once
}

// Open opens the file, brings its schema up to date and starts the writer.
// The error's code is Conflict if another process has the file open, NotFound
// for a file to read that does not exist. Close ends it.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{path: o.Path, jobs: make(chan *job), closing: make(chan struct{}), stopped: make(chan struct{})}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.Path, err), s.release())
	}
	if o.ReadOnly {
		close(s.stopped)
		return s, nil
	}
	go s.serve()
	if err := s.Write(ctx, func(tx *Tx) error { return tx.measureHealthy(ctx) }); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.Path, err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, o Options) (err error) {
	if o.ReadOnly {
		if _, err = os.Stat(o.Path); errors.Is(err, fs.ErrNotExist) {
			return fleet.Errorf(fleet.NotFound, "there is no such file")
		}
	} else if err = s.openWriter(ctx, o.Path); err != nil {
		return err
	}
	if s.reads, err = sql.Open("sqlite", dsn(o.Path, "query_only(1)")); err != nil {
		return err
	}
	readers := max(4, runtime.NumCPU())
	s.reads.SetMaxOpenConns(readers)
	s.reads.SetMaxIdleConns(readers)
	s.Reader = Reader{q: s.reads}
	if err = s.reads.PingContext(ctx); err != nil || o.ReadOnly {
		return err
	}
	head, err := s.AuditHead(ctx)
	s.committed.Store(&head)
	return err
}

func (s *Store) openWriter(ctx context.Context, path string) (err error) {
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return err
	}
	// SQLite gives its own files the mode of the database.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return err
	}
	// A pass of the engine changes more pages than fit into SQLite's own cache of 2
	// MiB, which then writes them more than once, as do checkpoints every 4 MiB.
	if s.writes, err = sql.Open("sqlite", dsn(path, "cache_size(-16384)", "wal_autocheckpoint(4096)")); err != nil {
		return err
	}
	s.writes.SetMaxOpenConns(1)
	if err = migrate(ctx, s.writes); err != nil {
		return err
	}
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return err
	}
	s.writer = &writer{conn: conn, stmts: map[string]*sql.Stmt{}}
	return nil
}

// dsn names the file with the settings that every connection needs. Synchronous
// FULL makes COMMIT wait for the disk.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "temp_store(MEMORY)",
	}, pragmas...)}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	sources := p.ListSources()
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if newest := sources[len(sources)-1].Version; have > newest {
		return fleet.Errorf(fleet.Conflict, "the file has schema %d, this program knows %d", have, newest).
			WithHint("it was written by a newer control plane: run that one, or restore a backup")
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// lockFile keeps a second process off the file: the engine holds state in
// memory that another writer would make wrong.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fleet.Errorf(fleet.Conflict, "another process has it open").
			WithHint("stop the running control plane first"), f.Close())
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close waits for the writes that were accepted, then closes the file. Later
// writes fail with code Unavailable.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		<-s.stopped
		err = s.release()
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
