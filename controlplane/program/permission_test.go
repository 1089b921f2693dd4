// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// nobody is the user that the control planes of these tests run as.
const nobody = 65534

// give gives what is below a folder to nobody, and lets it get there.
func give(t *testing.T, p place) {
	t.Helper()
	for _, name := range []string{p.config, p.dir} {
		for dir := filepath.Dir(name); dir != filepath.Dir(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o011 != 0o011 {
				check(t, os.Chmod(dir, info.Mode().Perm()|0o011))
			}
		}
	}
	check(t, os.MkdirAll(p.dir, 0o700))
	check(t, os.Chown(p.config, nobody, nobody))
	check(t, filepath.WalkDir(p.dir, func(name string, _ fs.DirEntry, err error) error {
		check(t, err)
		return os.Lchown(name, nobody, nobody)
	}))
}

// asNobody starts a control plane as that user.
func (c *control) asNobody() {
	c.t.Helper()
	if os.Geteuid() != 0 {
		c.t.Skip("needs root: it starts a program as another user")
	}
	c.t.Setenv(userEnv, strconv.Itoa(nobody))
	c.p = self(c.t, serverEnv+"="+c.config, nil)
}

// A file or folder that is not the program's to write is named at the start, with its
// mode, its owner and who wanted to write. Nothing is changed.
func TestStart_SaysWhatIsNotItsToWrite(t *testing.T) {
	for name, tc := range map[string]struct {
		begun bool // it ran before
		harm  func(c *control) (file string)
		want  string
	}{
		"a folder without the right to write": {true, func(c *control) string {
			check(c.t, os.Chmod(c.dir, 0o500))
			return c.dir
		}, "mode 0500 and belongs to user 65534"},
		"a new folder without the right to write": {false, func(c *control) string {
			check(c.t, os.Chmod(c.dir, 0o500))
			return c.dir
		}, "permission denied"},
		"a folder that it may not enter": {true, func(c *control) string {
			check(c.t, os.Chmod(c.dir, 0))
			return c.dir
		}, "mode 0000 and belongs to user 65534"},
		"a database that is another user's": {true, func(c *control) string {
			check(c.t, os.Chown(c.database(), 0, 0))
			return c.database()
		}, "mode 0600 and belongs to user 0"},
		"a database without the right to write": {true, func(c *control) string {
			check(c.t, os.Chmod(c.database(), 0o400))
			return c.database()
		}, "mode 0400 and belongs to user 65534"},
		"a log that is another user's": {true, func(c *control) string {
			check(c.t, os.WriteFile(c.database()+"-wal", nil, 0o600))
			return c.database() + "-wal"
		}, "mode 0600 and belongs to user 0"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &control{place: newPlace(t)}
			give(t, c.place)
			if tc.begun {
				c.asNobody()
				c.becomesReady()
				c.stop()
			}
			file := tc.harm(c)
			t.Cleanup(func() { _ = os.Chmod(c.dir, 0o700) })
			c.asNobody()
			c.ended()
			r, err := c.p.Wait()
			last := string(r.Stderr)
			if err == nil || !strings.Contains(last, file) || !strings.Contains(last, tc.want) || strings.Contains(last, "damaged") || !strings.Contains(last, "user") {
				t.Fatalf("it ended with %v, want %q and %q:\n%s", err, file, tc.want, last)
			}
		})
	}
}

// A folder that may not be entered for a while, while the control plane runs, is said
// and is no damage: it goes on when that is over.
func TestRun_OutlivesAFolderThatItMayNotEnter(t *testing.T) {
	c := &control{place: newPlace(t)}
	give(t, c.place)
	c.asNobody()
	c.becomesReady()
	o := operatorOf(t, c)
	check(t, os.Chmod(c.dir, 0))
	t.Cleanup(func() { _ = os.Chmod(c.dir, 0o700) })
	for range 600 { // enough for a look at the file once it rests
		if status, _, p := o.register(); status/100 != 2 && p.Code != fleet.StorageFailed {
			t.Fatalf("%d %+v", status, p)
		}
	}
	until(t, 20*time.Second, lookEvery, "the probe says so", func() bool {
		status, text := c.readyz()
		return status == http.StatusServiceUnavailable && strings.HasPrefix(text, "storage-failed: ") && strings.Contains(text, c.dir) && strings.Contains(text, "mode 0000")
	})
	check(t, os.Chmod(c.dir, 0o700))
	until(t, 20*time.Second, lookEvery, "it is ready again by itself", func() bool { status, _ := c.readyz(); return status == http.StatusOK })
	if status, _, p := o.register(); status/100 != 2 {
		t.Fatalf("afterwards: %d %+v", status, p)
	}
	o.kept(t)
	check(t, c.p.Signal(syscall.SIGTERM))
	c.ended()
	c.sound()
}

// On a disk that is full already it starts: what needs no room is served, the probe
// and each write say why not, and it goes on by itself when there is room.
func TestFullDisk_AtTheStart(t *testing.T) {
	c := &control{place: newPlace(t)}
	ownDisk(t, c.place, 24<<20)
	c.start()
	o := operatorOf(t, c)
	for range 20 {
		o.register()
	}
	c.kill()
	empty := fill(t, c.dir)
	c.p = self(t, serverEnv+"="+c.config, nil)
	until(t, 20*time.Second, lookEvery, "the probe says that the disk is full", func() bool {
		status, text := c.readyz()
		return status == http.StatusServiceUnavailable && strings.HasPrefix(text, "storage-full: ") && strings.Contains(text, c.dir)
	})
	o.kept(t)
	if status, header, p := o.register(); status != http.StatusServiceUnavailable || p.Code != fleet.StorageFull || header.Get("Retry-After") == "" {
		t.Fatalf("on a full disk: %d, %+v", status, p)
	}
	empty()
	until(t, 20*time.Second, lookEvery, "it is ready by itself", func() bool { status, _ := c.readyz(); return status == http.StatusOK })
	if status, _, p := o.register(); status/100 != 2 {
		t.Fatalf("after there is room: %d %+v", status, p)
	}
	c.kill() // that it was open is noted by now, and looked at
	c.start()
	o.kept(t)
	c.sound()
}
