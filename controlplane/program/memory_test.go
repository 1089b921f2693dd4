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
	if gc := debug.SetGCPercent(restPercent); gc != restPercent {
		t.Errorf("the percentage is %d, want %d", gc, restPercent)
	}
	if got := debug.SetMemoryLimit(-1); machineMemory() > 0 && (got == before || got > int64(machineMemory())) {
		t.Errorf("the limit is %d on a machine with %d", got, machineMemory())
	}
}

// A rush is collected for less often; what it leaves is given back once, not what
// collections at rest leave again and again.
func TestPace_FollowsARushAndItsEnd(t *testing.T) {
	const mib = 1 << 20
	p, u := pace{calm: restAfter}, memoryUse{live: 200 * mib, unused: 300 * mib}
	look := func(allocates uint64) (int, bool) {
		u.allocated += allocates
		return p.look(u)
	}
	if percent, _ := look(100 * mib); percent != rushPercent {
		t.Errorf("at its begin: %d", percent)
	}
	if percent, back := look(100 * mib); percent != 0 || back {
		t.Errorf("in it: %d, %t", percent, back)
	}
	for n := range 3 * restAfter {
		if n == restAfter {
			u.unused = 150 * mib
		}
		percent, back := look(mib)
		if last := n == restAfter-1; back != last || (percent == restPercent) != last {
			t.Errorf("at rest for %d looks: %d, %t", n, percent, back)
		}
	}
	u.unused = 200 * mib
	given := 0
	for range 2 * restAfter {
		if _, back := look(mib); back {
			given++
		}
	}
	if given != 2 {
		t.Errorf("unused memory is given back %d times, want 2", given)
	}
	look(100 * mib) // a rush, and what was live in it
	u.live, u.unused, given = 300*mib, 0, 0
	for range 5 * restAfter {
		if _, back := look(mib); back {
			given++
			u.live = 200 * mib
		}
	}
	if given != 1 {
		t.Errorf("after a rush memory is given back %d times, want 1", given)
	}
	u.live, given = 300*mib, 0
	for range 5 * restAfter { // it grows, and stays so
		if _, back := look(mib); back {
			given++
		}
	}
	if given > 1 {
		t.Errorf("memory that is in use was looked into %d times", given)
	}
}
