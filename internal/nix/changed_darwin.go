// SPDX-License-Identifier: MIT

package nix

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// changedAt is when a store path was last touched by anyone. Nix sets the
// modification time of all that it stores to the epoch, but not this one.
func changedAt(path string) (time.Time, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}, fmt.Errorf("no change time of %s", path)
	}
	return time.Unix(int64(st.Ctimespec.Sec), int64(st.Ctimespec.Nsec)), nil
}
