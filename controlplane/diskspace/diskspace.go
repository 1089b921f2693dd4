// SPDX-License-Identifier: AGPL-3.0-only

// Package diskspace looks at how much room a file system has.
//
// It never writes.
package diskspace

import (
	"fmt"
	"syscall"
)

// reserve is how many bytes must be free until a disk that was full counts as
// one with room: a write takes some, and then the next has none.
const reserve = 512 << 10

// mountedReadOnly is ST_RDONLY, which is the same on every system.
const mountedReadOnly = 1

// Space is how much room a file system has.
type Space struct {
	Folder string `json:"folder"`
	Free   int64  `json:"free"` // bytes that the control plane may still use
	Size   int64  `json:"size"` // bytes
	// ReadOnly is a file system that takes no writes, by choice or after an error.
	ReadOnly bool `json:"readOnly,omitempty"`
}

// String says it for people.
func (s Space) String() string {
	return fmt.Sprintf("%s free of %s", Text(s.Free), Text(s.Size))
}

// Text writes a number of bytes; a small one exactly.
func Text(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// Of looks at the file system that a folder is on.
func Of(folder string) (Space, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(folder, &st); err != nil {
		return Space{}, fmt.Errorf("look at the file system of %s: %w", folder, err)
	}
	return Space{
		Folder: folder, Free: int64(st.Bavail) * int64(st.Bsize), Size: int64(st.Blocks) * int64(st.Bsize),
		ReadOnly: st.Flags&mountedReadOnly != 0,
	}, nil
}

// Full reports whether the file system has too little room to go on.
func (s Space) Full() bool { return s.Free < reserve }
