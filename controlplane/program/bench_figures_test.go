// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// figures are the benchmark's result. One that could not be taken is null.
type figures struct {
	Machines         int         `json:"machines"`
	IdlePerSecond    *float64    `json:"idlePerSecond"`
	Flatness         *float64    `json:"flatness"`         // idle check-ins a second of all machines, to those of the first hundred
	CyclesPerSecond  *float64    `json:"cyclesPerSecond"`  // a check-in with a new state, and an audited report
	CPUPer1000Cycles *float64    `json:"cpuPer1000Cycles"` // seconds of the server
	P99At1000Ms      *float64    `json:"p99At1000Ms"`      // of check-ins of 1,000 machines, 200 a second
	RSS10kMiB        *float64    `json:"rss10kMiB"`
	RSSAfterMiB      *float64    `json:"rssAfterRolloutMiB"`
	IdleBytes        *float64    `json:"idleBytes"` // written for a check-in
	PushP99Ms        *float64    `json:"pushP99Ms"` // from the POST until an order is read
	All1000Ms        *float64    `json:"all1000Ms"` // the fifth
	All1000FirstMs   *float64    `json:"all1000FirstMs"`
	Staged1000Ms     *float64    `json:"staged1000Ms"`
	All10kMs         *float64    `json:"all10kMs"`
	Batches10kMs     *float64    `json:"batches10kMs"`
	CPUAll10kMs      *float64    `json:"cpuAll10kMs"` // of the server
	StopMs           *float64    `json:"stopMs"`
	CPUStopMs        *float64    `json:"cpuStopMs"` // of the server
	ReadyMs          *float64    `json:"readyMs"`
	BackMs           *float64    `json:"backMs"`
	CPUBackMs        *float64    `json:"cpuBackMs"` // of the server, from its start on
	BackDials        *float64    `json:"backDials"` // connections that a machine made to be back
	List10kCPUMs     *float64    `json:"list10kCpuMs"`
	Release100kMiB   *float64    `json:"release100kRssMiB"` // the most that was resident while one was registered
	History          int         `json:"history"`           // events, and audit entries, for what follows
	ReadyHistoryMs   *float64    `json:"readyHistoryMs"`
	All1000HistoryMs *float64    `json:"all1000HistoryMs"` // the fifth
	All10kHistoryMs  *float64    `json:"all10kHistoryMs"`
	Batches10kHistMs *float64    `json:"batches10kHistoryMs"`
	CPU10kHistoryMs  *float64    `json:"cpuAll10kHistoryMs"`
	AuditFilterCPUMs *float64    `json:"auditFilterCpuMs"`
	Fleet100k        figures100k `json:"fleet100k"`

	LoadBefore  string   `json:"loadBefore"` // averages of 1, 5 and 15 minutes
	LoadAfter   string   `json:"loadAfter"`
	OthersCores float64  `json:"othersCores"` // that everything else on this computer kept busy meanwhile
	Others      []string `json:"others"`      // what took most of that and still runs, with seconds of CPU
	Failed      []string `json:"failed"`      // parts that did not end
	TookS       float64  `json:"tookS"`
}

// figures100k are those of a fleet whose machines hold no connection.
type figures100k struct {
	Machines   int      `json:"machines"`
	P99Ms      *float64 `json:"p99Ms"`      // of a check-in, from the dial on
	PerSecond  *float64 `json:"perSecond"`  // check-ins
	Resumed    *float64 `json:"resumed"`    // share of the TLS sessions
	Cores      *float64 `json:"cores"`      // of the server
	AllAtOnceS *float64 `json:"allAtOnceS"` // a rollout to all
	CPUAllS    *float64 `json:"cpuAllS"`    // of the server, in that rollout
	RSSMiB     *float64 `json:"rssMiB"`
}

// num is a figure with three decimals.
func num[N int | int64 | float64](n N) *float64 {
	v := math.Round(float64(n)*1000) / 1000
	return &v
}

// p99 is a percentile in ms of durations in µs.
func p99(micros []int64) *float64 {
	slices.Sort(micros)
	return num(float64(micros[len(micros)*99/100]) / 1000)
}

// shared is what runs on this computer.
type shared struct {
	began time.Time
	busy  float64          // seconds of CPU
	ours  float64          // of that
	by    map[string]int64 // of processes: ticks
}

const ticks = 100 // a second, on every Linux

func lookAround() shared {
	s := shared{began: time.Now(), by: map[string]int64{}}
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, f := range strings.Fields(line) {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i < 8 && i != 4 && i != 5 { // not idle, not waiting for disks
			s.busy += float64(n) / ticks
		}
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			s.ours += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		before, after, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(after)
		if pid, name, ok := strings.Cut(before, " ("); ok && len(f) > 12 && pid != strconv.Itoa(os.Getpid()) {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			s.by[pid+" "+name] = user + system
		}
	}
	return s
}

// since says what ran beside us since an earlier look, when all our processes have
// ended.
func (s shared) since(before shared) (cores float64, names []string) {
	cores = max(0, (s.busy-before.busy)-(s.ours-before.ours)) / s.began.Sub(before.began).Seconds()
	sums := map[string]int64{}
	for p, n := range s.by {
		_, name, _ := strings.Cut(p, " ")
		sums[name] += n - before.by[p]
	}
	for _, name := range slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Compare(sums[b], sums[a]) }) {
		if len(names) < 5 && sums[name] >= ticks {
			names = append(names, fmt.Sprintf("%s: %d s", name, sums[name]/ticks))
		}
	}
	return math.Round(cores*100) / 100, names
}

// load is what shares the machine: the load averages.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return string(bytes.Join(bytes.Fields(append(b, " ? ? ?"...))[:3], []byte(" ")))
}
