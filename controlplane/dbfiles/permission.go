// SPDX-License-Identifier: AGPL-3.0-only

package dbfiles

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	mayWrite = 2 // W_OK
	mayEnter = 1 // X_OK
)

// NotOurs names the first of a database's files, or their folder, that this process
// may not write, and says why; "" for none.
func NotOurs(path string) string {
	folder := filepath.Dir(path)
	if syscall.Access(folder, mayWrite|mayEnter) == syscall.EACCES {
		return notOurs(folder)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if syscall.Access(path+suffix, mayWrite) == syscall.EACCES {
			return notOurs(path + suffix)
		}
	}
	return ""
}

func notOurs(name string) string {
	text := fmt.Sprintf("%s is not this program's to write: it runs as user %d", name, os.Geteuid())
	info, err := os.Stat(name)
	if err != nil {
		return text
	}
	text += fmt.Sprintf(", and it has mode %04o", info.Mode().Perm())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		text += fmt.Sprintf(" and belongs to user %d", st.Uid)
	}
	return text
}
