// SPDX-License-Identifier: MIT

package nix

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// changedAt returns the change time of a store path. Nix sets the modification time
// of everything in the store to the epoch, but cannot set the change time.
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
