// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemoryLimit_IsThreeQuartersOfTheLeast(t *testing.T) {
	const gib = 1 << 30
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	own := file("0::/system.slice/nixfleet-control-plane.service\n")
	for _, tt := range []struct {
		name    string
		files   fstest.MapFS
		machine uint64
		want    int64
	}{
		{"a machine", fstest.MapFS{}, 4 * gib, 3 * gib},
		{"no limit in the cgroup", fstest.MapFS{"proc/self/cgroup": own,
			"sys/fs/cgroup/system.slice/nixfleet-control-plane.service/memory.max": file("max\n")}, 4 * gib, 3 * gib},
		{"the unit's limit", fstest.MapFS{"proc/self/cgroup": own,
			"sys/fs/cgroup/system.slice/nixfleet-control-plane.service/memory.max": file("1073741824\n")}, 4 * gib, gib / 4 * 3},
		{"the unit's softer limit", fstest.MapFS{"proc/self/cgroup": own,
			"sys/fs/cgroup/system.slice/nixfleet-control-plane.service/memory.max":  file("2147483648\n"),
			"sys/fs/cgroup/system.slice/nixfleet-control-plane.service/memory.high": file("1073741824\n")}, 4 * gib, gib / 4 * 3},
		{"the slice's limit", fstest.MapFS{"proc/self/cgroup": own,
			"sys/fs/cgroup/system.slice/memory.max":                                file("1073741824\n"),
			"sys/fs/cgroup/system.slice/nixfleet-control-plane.service/memory.max": file("max\n")}, 4 * gib, gib / 4 * 3},
		{"a container", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("1073741824\n")}, 4 * gib, gib / 4 * 3},
		{"cgroups of version 1", fstest.MapFS{"proc/self/cgroup": file("9:name=systemd:/\n4:memory:/a/b\n0::/\n"),
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": file("1073741824\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 4 * gib, gib / 4 * 3},
		{"a limit beyond the machine", fstest.MapFS{"proc/self/cgroup": own, "sys/fs/cgroup/system.slice/memory.max": file("8589934592\n")}, 4 * gib, 3 * gib},
		{"a tiny limit", fstest.MapFS{"proc/self/cgroup": own, "sys/fs/cgroup/system.slice/memory.max": file("1048576\n")}, 4 * gib, leastMemory},
		{"nothing known", fstest.MapFS{}, 0, 0},
	} {
		if got := memoryLimit(tt.files, tt.machine); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestLimitMemory_LeavesTheEnvironmentsAlone(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	percent := debug.SetGCPercent(77)
	defer debug.SetGCPercent(percent)
	t.Setenv("GOMEMLIMIT", "512MiB")
	t.Setenv("GOGC", "77")
	limitMemory()
	if got, gc := debug.SetMemoryLimit(-1), debug.SetGCPercent(77); got != before || gc != 77 {
		t.Errorf("the limit became %d, the percentage %d", got, gc)
	}
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	limitMemory()
	if gc := debug.SetGCPercent(garbagePercent); gc != garbagePercent {
		t.Errorf("the percentage is %d, want %d", gc, garbagePercent)
	}
	if got := debug.SetMemoryLimit(-1); machineMemory() > 0 && (got == before || got > int64(machineMemory())) {
		t.Errorf("the limit is %d on a machine with %d", got, machineMemory())
	}
}
