// SPDX-License-Identifier: MIT

package host

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A13: a switch in progress is seen, and not disturbed by being looked at.
func TestLocked_SeesTheLockOfAnother(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	if locked(file) {
		t.Error("a file that does not exist is locked")
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if locked(file) {
		t.Error("locked before it is")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if !locked(file) {
		t.Skip("SKIP: this file system's locks are not in /proc/locks by the device that stat tells")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if locked(file) {
		t.Error("locked after it was")
	}
}
