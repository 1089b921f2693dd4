// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// leastMemory is the least that the limit is set to: with less, the collector
// of garbage would do nothing but its work.
const leastMemory = 64 << 20

// garbagePercent is by how much the heap may grow before garbage is collected. Most
// of it is what held check-ins need, which lives for long: with Go's own 100, as
// much again would be garbage.
const garbagePercent = 40

// limitMemory tells the runtime how much memory the program should stay within:
// near to it, it collects garbage more often, so that a rush does not end in a
// kill. GOMEMLIMIT and GOGC in the environment are obeyed by the runtime itself.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit := memoryLimit(os.DirFS("/"), machineMemory()); limit > 0 {
		debug.SetMemoryLimit(limit)
	}
}

// memoryLimit is three quarters of what there is: the least of the machine's
// memory and the limits of the cgroups that the program is in. The rest is for
// what the runtime does not count: stacks of the kernel, SQLite's caches. It is
// 0 if nothing is known.
func memoryLimit(root fs.FS, machine uint64) int64 {
	most := machine
	for name, dirs := range cgroupFiles(root) {
		for _, dir := range dirs {
			if n, ok := readLimit(root, path.Join(dir, name)); ok && (most == 0 || n < most) {
				most = n
			}
		}
	}
	if most == 0 || most > math.MaxInt64 {
		return 0
	}
	return max(int64(most)/4*3, leastMemory)
}

// cgroupFiles lists, for each file that holds a limit, the folders of the
// program's cgroup and of those above it.
func cgroupFiles(root fs.FS) map[string][]string {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil // no Linux
	}
	files := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		top, names := "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		switch {
		case part[1] == "memory": // version 1
			top, names = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		case part[0] != "0":
			continue
		}
		dir := path.Clean("/" + part[2])
		for ; ; dir = path.Dir(dir) {
			for _, name := range names {
				files[name] = append(files[name], top+strings.TrimSuffix(dir, "/"))
			}
			if dir == "/" {
				break
			}
		}
	}
	return files
}

// readLimit reads a limit in bytes; false for none.
func readLimit(root fs.FS, name string) (uint64, bool) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64) // "max" is no number
	return n, err == nil && n > 0
}
