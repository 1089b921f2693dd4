// SPDX-License-Identifier: MIT

package sim

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// result is the last line of `make sim`.
type result struct {
	Seeds      int            `json:"seeds"`
	Failed     int            `json:"failed"`
	Faults     map[string]int `json:"faults"`
	Invariants int            `json:"invariants"`
}

// scratch is a folder in memory, if there is one: nothing here tests the disk, and
// everything is synced to it.
func scratch(t *testing.T) string {
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "nixfleet-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// live runs a fleet through what a seed has for it.
func live(t *testing.T, seed uint64, log io.Writer) (w *world) {
	dir := scratch(t)
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(t, seed, dir, slog.New(slog.NewTextHandler(log, nil)))
		w.trouble()
		w.heal()
		w.rest()
		w.judge()
		w.end()
	})
	return w
}

// replays is how often a seed is run that is to be replayed: which goroutine comes
// first at one moment differs from run to run.
const replays = 10

// processors is how many a replay runs on: one, where least differs from the replay
// before, or all, in turns.
func processors(replay uint64) int {
	if replay%2 == 0 {
		return 1
	}
	return runtime.NumCPU()
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// H01 to H10, H12, H13, H15 to H18: whatever befalls a fleet, no rule is broken, and
// it comes to rest when the trouble ends.
func TestFleet_KeepsItsRulesWhateverBefallsIt(t *testing.T) {
	seeds, first := number(t, "NIXFLEET_SIM_SEEDS", 4), number(t, "NIXFLEET_SIM_FIRST", 1)
	only := number(t, "NIXFLEET_SIM_SEED", 0)
	one := only != 0
	if one {
		seeds, first = replays, 0
	}
	sum := result{Faults: map[string]int{}, Invariants: len(rules)}
	var mu sync.Mutex
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+seeds; seed++ {
			if one && sum.Failed > 0 {
				break
			}
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				var kept bytes.Buffer // the log of a replay
				lives, log := seed, io.Writer(io.Discard)
				if one {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors(seed)))
					defer func() {
						if t.Failed() || seed == replays-1 {
							t.Logf("%s", kept.Bytes())
						}
					}()
					lives, log = only, &kept
				} else {
					t.Parallel()
				}
				t.Cleanup(func() { // also when the test ends in the bubble
					mu.Lock()
					defer mu.Unlock()
					sum.Seeds++
					if t.Failed() {
						sum.Failed++
						t.Logf("replay it with: make sim SEED=%d", lives)
					}
				})
				w := live(t, lives, log)
				mu.Lock()
				for k, n := range w.faults {
					sum.Faults[k] += n
				}
				mu.Unlock()
				if len(w.failures) > 0 {
					t.Errorf("seed %d:\n  %s\n\n%s", lives, strings.Join(w.failures, "\n  "), strings.Join(w.story, "\n"))
				}
			})
		}
	})
	if one {
		sum.Seeds = 1
	}
	line, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	if file := os.Getenv("NIXFLEET_SIM_RESULT"); file != "" {
		if err := os.WriteFile(filepath.Clean(file), append(line, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
