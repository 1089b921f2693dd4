// SPDX-License-Identifier: MIT

package sim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"modernc.org/sqlite"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

const bootstrapSecret = "open sesame, open sesame"

// controlPlane is the machine that the control plane runs on. All but now is for
// the goroutine of the world only.
type controlPlane struct {
	w    *world
	dir  string
	keys *pki.Keys

	mu     sync.Mutex
	offset time.Duration // of its wall clock

	store *store.Store // nil while it is down
	plane *plane.Plane
	// stop ends the program and waits for it.
	stop func() error
	// ended is closed when the program ends by itself.
	ended chan struct{}
	// startAt is when it is started again.
	startAt time.Time
	// roomAt is when its disk is no longer full; zero while it is not.
	roomAt time.Time
}

func (c *controlPlane) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

// setClock sets the wall clock, and reports whether it moved. The first certificates
// are good from an hour before the beginning.
func (c *controlPlane) setClock(offset time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := c.offset != offset
	c.offset = offset
	return moved
}

func (c *controlPlane) database() string { return filepath.Join(c.dir, "nixfleet.db") }

// start starts the program on what is on its disk.
func (c *controlPlane) start() (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	if c.keys, err = pki.Load(c.dir, []string{"plane"}, c.now()); err != nil {
		return err
	}
	identity, err := server.NewIdentity(config.TLS{}, c.keys)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, store.Options{Path: c.database()})
	if err != nil {
		return err
	}
	p, err := plane.Open(ctx, plane.Config{Store: st, Log: c.w.log, Now: c.now, Version: "sim", EpochKey: c.keys.EpochKey})
	if err == nil && c.w.admin == nil {
		err = p.Keys.SetBootstrapSecret(ctx, bootstrapSecret)
	}
	if err != nil {
		return errors.Join(err, st.Close())
	}
	srv, err := server.New(server.Options{Plane: p, Identity: identity, Log: c.w.log, Now: c.now})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	n := c.w.net
	sockets := server.Listeners{Operators: n.listen(operatorsAddr), Agents: n.listen(agentsAddr), Metrics: n.listen(metricsAddr)}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		if p.Run(context.Background()) != nil {
			close(ended) // a store that refuses its first write ends the program
		}
	})
	wg.Go(func() { _ = srv.Serve(ctx, sockets) })
	c.store, c.plane, c.ended = st, p, ended
	c.stop = func() error {
		n.shut()
		cancel()
		err := p.Close()
		wg.Wait()
		n.sever(nil)
		return errors.Join(err, st.Close())
	}
	return nil
}

// restart stops the program in an orderly way; it is started again after a while.
func (c *controlPlane) restart(after time.Duration) {
	if c.store == nil {
		return
	}
	c.makeRoom()
	if err := c.stop(); err != nil {
		c.w.violated(stopsAndStarts, "the control plane stops: %v", err)
	}
	c.store, c.plane, c.ended, c.startAt = nil, nil, nil, time.Now().Add(after)
}

// crash ends the program as kill -9 does: what it does after this moment is not on
// its disk.
func (c *controlPlane) crash(after time.Duration) {
	if c.store == nil {
		return
	}
	c.makeRoom()
	synctest.Wait() // so that no write is under way
	files := map[string][]byte{}
	for _, f := range []string{c.database(), c.database() + "-wal"} {
		b, err := os.ReadFile(f)
		if !errors.Is(err, fs.ErrNotExist) {
			c.w.must(err)
		}
		files[f] = b
	}
	c.w.net.shut()
	c.w.net.sever(nil)
	_ = c.stop() // it cannot tell anybody
	c.w.must(os.RemoveAll(c.database() + "-shm"))
	for f, b := range files {
		c.w.must(os.WriteFile(f, b, 0o600))
	}
	c.store, c.plane, c.ended, c.startAt = nil, nil, nil, time.Now().Add(after)
}

// writers are the connections of the stores that are open by which they write.
var writers struct {
	sync.Mutex
	conns map[string]sqlite.ExecQuerierContext // by the file's name
}

// watchWriters makes SQLite tell which connections there are.
var watchWriters = sync.OnceFunc(func() {
	writers.conns = map[string]sqlite.ExecQuerierContext{}
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, dsn string) error {
		if u, err := url.Parse(dsn); err == nil && strings.Contains(u.RawQuery, "wal_autocheckpoint") { // only who writes sets it
			writers.Lock()
			defer writers.Unlock()
			writers.conns[u.Path] = conn
		}
		return nil
	})
})

// setPages sets how many pages the database may have. SQLite takes more for a full
// disk.
func (c *controlPlane) setPages(n int) {
	writers.Lock()
	conn := writers.conns[c.database()]
	writers.Unlock()
	set := false
	for range 100 {
		err := c.store.Write(context.Background(), func(*store.Tx) error { // on the goroutine that has the connection
			_, failed := conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", n), nil)
			set = failed == nil
			return failed
		})
		if set {
			return
		}
		if fleet.ErrorCode(err) != fleet.StorageFull { // else another write of the transaction was first
			c.w.must(err)
			return
		}
	}
	c.w.must(errors.New("the pages of the database cannot be set"))
}

// fillDisk leaves no room on the disk for a while.
func (c *controlPlane) fillDisk(d time.Duration) bool {
	if c.store == nil || !c.roomAt.IsZero() {
		return false
	}
	c.setPages(1) // it is as many as there are
	c.roomAt = time.Now().Add(d)
	return true
}

// makeRoom ends that the disk is full.
func (c *controlPlane) makeRoom() {
	if !c.roomAt.IsZero() {
		c.setPages(1 << 30)
		c.roomAt = time.Time{}
	}
}

// tend does what is due.
func (c *controlPlane) tend() {
	now := time.Now()
	if !c.roomAt.IsZero() && !now.Before(c.roomAt) {
		c.makeRoom()
	}
	select {
	case <-c.ended:
		c.restart(2 * time.Second)
	default:
	}
	if c.store == nil && !now.Before(c.startAt) {
		if err := c.start(); err != nil {
			c.w.violated(stopsAndStarts, "the control plane starts: %v", err)
			c.startAt = now.Add(time.Minute)
		}
	}
}

// tls is for clients of the control plane.
func (c *controlPlane) tls() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(c.keys.ServerCA.Cert)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}
