// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"context"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// leastMemory is the least that the limit is set to: with less, the collector
// of garbage would do nothing but its work.
const leastMemory = 64 << 20

// By how much the heap may grow before garbage is collected, in percent. Most of it
// is what held check-ins need, which lives for long: at rest, with Go's own 100, as
// much again would be garbage. In a rush, to collect so often would cost a fifth of
// the processors.
const (
	restPercent = 40
	rushPercent = 100
)

// limitMemory tells the runtime how much memory the program should stay within:
// near to it, it collects garbage more often, so that a rush does not end in a
// kill. GOMEMLIMIT and GOGC in the environment are obeyed by the runtime itself.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(restPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit := memoryLimit(os.DirFS("/"), machineMemory()); limit > 0 {
		debug.SetMemoryLimit(limit)
	}
}

// A rush is a moment in which so much memory is allocated: many machines that connect
// at once, or a rollout. The program is at rest a while after the last one.
const (
	lookEvery  = 250 * time.Millisecond
	rushBytes  = 8 << 20
	restAfter  = 40       // looks
	leastGiven = 32 << 20 // less is not worth giving back to the system
)

// pace says how to treat garbage, by what the program does.
type pace struct {
	allocated uint64 // until the last look
	calm      int    // looks since the last rush
	rest      uint64 // what was live when the program was last at rest
}

// memoryUse is what the runtime says of its heap, in bytes.
type memoryUse struct {
	allocated uint64 // since the start
	live      uint64 // of that, in use after the last collection
	unused    uint64 // garbage since then, and free memory that the system could have
}

// look returns the percentage by which the heap may grow, 0 for as before, and
// whether memory that a rush has left is to be given back: the runtime alone does so
// after minutes. That costs a collection, so less than what collections at rest leave
// stays. What was live in the last collection of a rush may be garbage by now: if it is
// much more than at rest before, that is looked into once.
func (p *pace) look(u memoryUse) (percent int, giveBack bool) {
	rush := u.allocated-p.allocated > rushBytes
	p.allocated = u.allocated
	switch {
	case rush && p.calm >= restAfter:
		p.calm = 0
		return rushPercent, false
	case rush:
		p.calm = 0
		return 0, false
	}
	if p.calm++; p.calm == restAfter {
		percent = restPercent
	}
	if p.calm < restAfter {
		return 0, false
	}
	grown := u.live > p.rest+max(leastGiven, p.rest/4)
	giveBack = p.calm%restAfter == 0 && (grown || u.unused > max(leastGiven, u.live*2*restPercent/100))
	if p.calm > restAfter && !giveBack {
		p.rest = u.live
	}
	return percent, giveBack
}

// keepPace follows a pace until ctx ends.
func keepPace(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	p := pace{calm: restAfter}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		percent, giveBack := p.look(usage())
		if percent > 0 && os.Getenv("GOGC") == "" {
			debug.SetGCPercent(percent)
		}
		if giveBack {
			debug.FreeOSMemory()
		}
	}
}

func usage() memoryUse {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	objects, live := s[2].Value.Uint64(), s[1].Value.Uint64()
	return memoryUse{s[0].Value.Uint64(), live, max(objects, live) - live + s[3].Value.Uint64()}
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
