// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// cable carries bytes between operators and a control plane, until it is armed:
// then it holds back the next answer.
type cable struct {
	net.Listener
	to    string
	armed atomic.Bool
	held  chan struct{} // receives when an answer is held back
	wg    sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: to, held: make(chan struct{}, 1)}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); c.wg.Wait() })
	return c
}

func (c *cable) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer server.Close()
	wg.Go(func() { _, _ = io.Copy(server, client); server.Close() })
	defer client.Close()
	for b := make([]byte, 16<<10); ; {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		if c.armed.CompareAndSwap(true, false) {
			c.held <- struct{}{}
			_, _ = server.Read(b) // until the control plane is killed
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

// A POST is carried out once, and answered as it was then, though the control
// plane is killed after its commit and before its answer (H09).
func TestPOST_IsCarriedOutOnceThoughTheControlPlaneIsKilled(t *testing.T) {
	c := control{place: newPlace(t)}
	c.start()
	cable := newCable(t, c.operators)
	c.operators = cable.Addr().String()
	secret, err := os.ReadFile(filepath.Join(c.dir, "bootstrap-secret"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "root"})
	if err != nil {
		t.Fatal(err)
	}
	admin := c.client(key.Secret)
	f := trusttest.New(t, "acme", nil)
	if _, err := admin.PutRoot(t.Context(), f.RootEnvelope); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01", Lifecycle: fleet.Active}); err != nil {
		t.Fatal(err)
	}
	h := f.Header(1)
	h.CreatedAt, h.Expires = time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(time.Hour).UnixMilli()
	envelope, entries := f.Unchecked(h, []fleet.Entry{trusttest.Entry("web-01", "first")}, "acme-release")

	var release fleet.Release
	c.killedDuring(cable, func() (err error) {
		release, err = admin.CreateRelease(t.Context(), api.ReleaseRequest{Envelope: envelope, Entries: entries})
		return err
	}, func(r store.Reader) int {
		page, err := r.Releases(t.Context(), fleet.ReleaseFilter{}, fleet.PageRequest{})
		return count(t, page, err)
	})
	var made api.RolloutDetail
	c.killedDuring(cable, func() (err error) {
		made, err = admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: release.Digest, Select: []string{"web-01"}}})
		return err
	}, func(r store.Reader) int {
		page, err := r.Rollouts(t.Context(), fleet.RolloutFilter{}, fleet.PageRequest{})
		return count(t, page, err)
	})
	if got, err := admin.Rollout(t.Context(), made.ID); err != nil || got.CreatedAt != made.CreatedAt || made.Plan == nil {
		t.Errorf("the answer is rollout %+v with plan %v; the control plane has %+v, %v", made.Rollout, made.Plan, got.Rollout, err)
	}
	var next api.NewKey
	c.killedDuring(cable, func() (err error) { next, err = admin.RotateKey(t.Context(), key.Key.ID); return err }, func(store.Reader) int { return 1 })
	if _, err := c.client(next.Secret).Whoami(t.Context()); err != nil {
		t.Errorf("the new secret: %v", err)
	}
}

func count[T any](t *testing.T, page api.Page[T], err error) int {
	if err != nil {
		t.Error(err)
	}
	return len(page.Items)
}

// killedDuring makes a call, kills the control plane when it begins to answer,
// and starts it again. Of what the call makes there must be one then and after
// the call.
func (c *control) killedDuring(cable *cable, call func() error, count func(store.Reader) int) {
	c.t.Helper()
	cable.armed.Store(true)
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case <-cable.held:
	case err := <-done:
		c.t.Fatalf("answered before the answer could be held back: %v", err)
	}
	if err := c.p.Signal(syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	<-c.p.Done()
	look := func() int {
		s, err := store.Open(context.WithoutCancel(c.t.Context()), store.Options{Path: filepath.Join(c.dir, "nixfleet.db"), ReadOnly: true})
		if err != nil {
			c.t.Fatal(err)
		}
		defer s.Close()
		return count(s.Reader)
	}
	if n := look(); n != 1 {
		c.t.Fatalf("the control plane was killed with %d made: not between commit and answer", n)
	}
	c.start()
	if err := <-done; err != nil {
		c.t.Errorf("the call: %v", err)
	}
	if n := look(); n != 1 {
		c.t.Errorf("%d were made, want one", n)
	}
}
