// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
)

// ownDisk gives the state directory of a place a file system of its own, in a mount
// namespace that this test's thread and the programs that it starts are in.
func ownDisk(t *testing.T, p place, bytes int) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS)
	if err == nil {
		err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	if err != nil {
		t.Skip("needs root: ", err)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", p.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(p.dir, syscall.MNT_DETACH) })
}

// moveToOwnDisk does so with what the state directory has.
func moveToOwnDisk(t *testing.T, p place, bytes int) {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(p.dir)
	check(t, err)
	for _, e := range entries {
		files[e.Name()] = must(os.ReadFile(filepath.Join(p.dir, e.Name())))(t)
	}
	ownDisk(t, p, bytes)
	for name, b := range files {
		check(t, os.WriteFile(filepath.Join(p.dir, name), b, 0o600))
	}
}

// operator is somebody who registers machines, and notes which of them were
// acknowledged.
type operator struct {
	c    *control
	key  string
	http *http.Client

	mu    sync.Mutex
	next  int
	acked []fleet.MachineID
}

// operatorOf makes the first admin of a control plane that has started.
func operatorOf(t *testing.T, c *control) *operator {
	t.Helper()
	secret, err := os.ReadFile(filepath.Join(c.dir, "bootstrap-secret"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	return &operator{c: c, key: k.Secret, http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.pool()}}}}
}

// register makes a machine known. It does not repeat the request.
func (o *operator) register() (status int, header http.Header, p api.Problem) {
	o.mu.Lock()
	o.next++
	id := fleet.MachineID(fmt.Sprintf("m-%06d", o.next))
	o.mu.Unlock()
	body, _ := json.Marshal(api.MachineRequest{ID: id})
	req, _ := http.NewRequest(http.MethodPost, "https://"+o.c.operators+"/api/v1/machines", bytes.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+o.key)
	req.Header.Set("Content-Type", "application/json")
	res, err := o.http.Do(req)
	if err != nil {
		return 0, nil, p
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if res.StatusCode/100 == 2 && err == nil {
		o.mu.Lock()
		o.acked = append(o.acked, id)
		o.mu.Unlock()
	}
	_ = json.Unmarshal(b, &p)
	return res.StatusCode, res.Header, p
}

// busy registers machines with several requests at a time until one of them gives
// another answer than done, and returns that.
func (o *operator) busy(until func(status int) bool) (status int, header http.Header, p api.Problem) {
	var wg sync.WaitGroup
	var once sync.Once
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				s, h, problem := o.register()
				if until(s) {
					once.Do(func() { status, header, p = s, h, problem; close(stop) })
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	return status, header, p
}

// kept fails the test unless every machine that was acknowledged is there.
func (o *operator) kept(t *testing.T) {
	t.Helper()
	have := map[fleet.MachineID]bool{}
	for m, err := range api.All(t.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Machine], error) {
		return o.c.client(o.key).Machines(ctx, fleet.MachineFilter{}, p)
	}) {
		if err != nil {
			t.Fatal(err)
		}
		have[m.ID] = true
	}
	for _, id := range o.acked {
		if !have[id] {
			t.Fatalf("%s was acknowledged, and is lost: %d of %d are there", id, len(have), len(o.acked))
		}
	}
}

// readyz is what the probe is told.
func (c *control) readyz() (status int, text string) {
	res, err := http.Get("http://" + c.metrics + "/readyz")
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(b))
}

// kill ends it as a loss of power does.
func (c *control) kill() {
	c.t.Helper()
	if err := c.p.Signal(syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	<-c.p.Done()
}

// ended waits until it has ended by itself.
func (c *control) ended() {
	c.t.Helper()
	until(c.t, 30*time.Second, lookEvery, "it has ended", func() bool {
		select {
		case <-c.p.Done():
			return true
		default:
			return false
		}
	})
}

// doctor returns what it finds, by subject.
func (c *control) doctor(args ...string) (code int, found map[string]health.Finding, stderr string) {
	c.t.Helper()
	code, out, stderr := run(c.t.Context(), append([]string{"doctor", "--config", c.config, "--json"}, args...)...)
	var v struct {
		Findings []health.Finding `json:"findings"`
	}
	if out != "" {
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
	}
	found = map[string]health.Finding{}
	for _, f := range v.Findings {
		if f.Severity == "error" {
			found[f.Subject] = f
		}
	}
	return code, found, stderr
}

// sound fails the test if anything is wrong with the database.
func (c *control) sound() {
	c.t.Helper()
	if _, found, stderr := c.doctor("--deep"); len(found) > 0 {
		c.t.Fatalf("doctor --deep finds %+v, %s", found, stderr)
	}
}

// fill takes the room that a folder has, and returns what gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{64 << 10, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk is told with its place, by every request that writes, the probe and
// the doctor. Nothing that was acknowledged is lost, also by a crash then, and it
// goes on by itself when there is room.
func TestFullDisk_IsToldAndPasses(t *testing.T) {
	c := &control{place: newPlace(t)}
	ownDisk(t, c.place, 24<<20)
	c.start()
	o := operatorOf(t, c)
	for round := range 3 {
		for range 20 {
			o.register()
		}
		empty := fill(t, c.dir)
		status, header, p := o.busy(func(status int) bool { return status != http.StatusCreated && status != http.StatusOK })
		if status != http.StatusServiceUnavailable || p.Code != fleet.StorageFull || header.Get("Retry-After") == "" || !strings.Contains(p.Detail, "disk is full") || p.Hint == "" {
			t.Fatalf("on a full disk: %d, %+v, Retry-After %q", status, p, header.Get("Retry-After"))
		}
		if status, text := c.readyz(); status != http.StatusServiceUnavailable || !strings.HasPrefix(text, "storage-full: ") || !strings.Contains(text, c.dir) {
			t.Fatalf("readyz on a full disk: %d %s", status, text)
		}
		o.kept(t) // reading goes on
		code, found, _ := c.doctor()
		if disk := found["disk"]; code != 1 || !strings.Contains(disk.Message, c.dir) || !strings.Contains(disk.Message, " bytes free of 24 MiB") {
			t.Fatalf("doctor on a full disk: %d, %+v", code, found)
		}
		if !strings.Contains(found["control-plane"].Message, "storage-full") {
			t.Errorf("doctor does not say what the running control plane says: %+v", found)
		}
		if round == 1 {
			c.kill()
			if code, _, stderr := run(t.Context(), "doctor", "--config", c.config); code != 1 || !strings.Contains(stderr, c.dir) {
				t.Fatalf("doctor of a stopped control plane on a full disk: %d %s", code, stderr)
			}
			empty()
			c.start()
		} else {
			empty()
		}
		until(t, 20*time.Second, lookEvery, "it is ready again by itself", func() bool { status, _ := c.readyz(); return status == http.StatusOK })
		if status, _, p := o.register(); status/100 != 2 {
			t.Fatalf("after there is room: %d %+v", status, p)
		}
		o.kept(t)
	}
	c.stop()
	c.start()
	o.kept(t)
	c.sound()
}

// H09, E12: killed at any moment, it goes on with all that was acknowledged.
func TestKill_LosesNothingAcknowledged(t *testing.T) {
	c := &control{place: newPlace(t)}
	c.start()
	o := operatorOf(t, c)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 6 {
		killed := make(chan struct{})
		after := len(o.acked) + 1 + random.IntN(400)
		go func() {
			defer close(killed)
			until(t, time.Minute, lookEvery, "so many requests were acknowledged", func() bool {
				o.mu.Lock()
				defer o.mu.Unlock()
				return len(o.acked) >= after
			})
			c.kill()
		}()
		o.busy(func(status int) bool { return status == 0 })
		<-killed
		c.start()
		o.kept(t)
	}
	c.stop()
	c.sound()
}

// What happens to the files behind its back is noticed: it does not start, or is
// not ready, and the doctor says so.
func TestDamage_IsNoticed(t *testing.T) {
	for name, tc := range map[string]struct {
		harm   func(t *testing.T, c *control)
		starts bool
		want   string // of run's error, or of the probe
		found  string // subject of a finding of doctor --deep
	}{
		"cut to half": {func(t *testing.T, c *control) {
			info, err := os.Stat(c.database())
			if err == nil {
				err = os.Truncate(c.database(), info.Size()/2/4096*4096)
			}
			check(t, err)
		}, false, "damaged", "database"},
		"cut to nothing": {func(t *testing.T, c *control) { check(t, os.Truncate(c.database(), 0)) }, false, "the file is empty", "database"},
		"a page of zeros that the start does not read": {func(t *testing.T, c *control) {
			c.zero(`"action":"machine.register","subject":"machine:m-000150"`)
		}, true, "database is damaged", "database"},
		"a page of zeros that the start reads": {func(t *testing.T, c *control) { c.zero("CREATE TABLE audit") }, false, "damaged", "database"},
		"read-only": {func(t *testing.T, c *control) {
			check(t, syscall.Mount("", c.dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		}, false, "read-only", "disk"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &control{place: newPlace(t)}
			ownDisk(t, c.place, 64<<20)
			c.start()
			o := operatorOf(t, c)
			for range 300 {
				o.register()
			}
			// A stop moves the log into the file; then it does not end well.
			c.stop()
			c.start()
			c.kill()
			tc.harm(t, c)
			_, found, stderr := c.doctor("--deep")
			if f := found[tc.found]; tc.found != "" && f.Message == "" {
				t.Errorf("doctor finds %+v, %s", found, stderr)
			}
			c.p = self(t, serverEnv+"="+c.config, nil)
			if !tc.starts {
				c.ended()
				if r, err := c.p.Wait(); err == nil || !strings.Contains(string(r.Stderr), tc.want) {
					t.Fatalf("it ran on: %v\n%s", err, r.Stderr)
				}
				return
			}
			t.Cleanup(func() {
				if t.Failed() {
					_ = c.p.Signal(syscall.SIGTERM)
					r, _ := c.p.Wait()
					t.Logf("%s", r.Stderr)
				}
			})
			until(t, 10*time.Second, lookEvery, "it is not ready", func() bool {
				status, text := c.readyz()
				return status == http.StatusServiceUnavailable && strings.HasPrefix(text, "storage-failed: ") && strings.Contains(text, tc.want)
			})
		})
	}
}

// zero makes zeros of the page that has a text.
func (c *control) zero(text string) {
	c.t.Helper()
	const page = 4096
	b, err := os.ReadFile(c.database())
	check(c.t, err)
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		c.t.Fatalf("the database does not have %q", text)
	}
	copy(b[at/page*page:][:page], make([]byte, page))
	check(c.t, os.WriteFile(c.database(), b, 0o600))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *control) database() string { return filepath.Join(c.dir, "nixfleet.db") }
