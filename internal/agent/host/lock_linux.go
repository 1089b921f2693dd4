// SPDX-License-Identifier: MIT

package host

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// switchLock is what NixOS' switch programs hold while they run.
const switchLock = "/run/nixos/switch-to-configuration.lock"

// LockHeld reports whether a switch is in progress, whoever started it.
func LockHeld() bool { return locked(switchLock) }

// locked reads the kernel's list of locks. Trying the lock would hold it for a
// moment, and a switch that begins in that moment would fail.
func locked(file string) bool {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return false // no switch since boot
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	inode := fmt.Sprintf(" %02x:%02x:%d ", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(b)) {
		// "1: FLOCK ADVISORY WRITE 123 00:19:42 0 EOF"; one that waits has "->".
		if strings.Contains(line, " FLOCK ") && strings.Contains(line, inode) && !strings.Contains(line, "->") {
			return true
		}
	}
	return false
}
