// SPDX-License-Identifier: MIT

package machine

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// What is said of the machine does not change with each look at it, and is never
// far from the truth: a check-in that says it again is larger, and written.
func TestInventory_ChangesByStepsOnly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const gib = 1 << 30
		free := rapid.Int64Range(0, 2000*gib).Draw(rt, "free")
		now := states.Moment{WallMs: 1_800_000_000_000, Boot: 100, BootID: "one"}
		v := inventory{}.next(now, "6.12", free)
		changes, moved := 0, int64(0)
		for range rapid.IntRange(1, 60).Draw(rt, "check-ins") {
			d := rapid.Int64Range(-gib/8, gib/8).Draw(rt, "written")
			free, moved = max(0, free+d), moved+max(d, -d)
			now.WallMs += 55_000 + rapid.Int64Range(-400, 400).Draw(rt, "clock")
			now.Boot += 55
			next := v.next(now, "6.12", free)
			if next != v {
				changes++
			}
			v = next
			if off := max(v.DiskFree-free, free-v.DiskFree); off > max(v.DiskFree/10, 128<<20) {
				rt.Fatalf("%d bytes are free, and it says %d", free, v.DiskFree)
			}
		}
		if changes > 1+int(moved/(32<<20)) {
			rt.Fatalf("%d changes for %d bytes", changes, moved)
		}
		reboot := v.next(states.Moment{WallMs: now.WallMs, Boot: 5, BootID: "two"}, "6.13", free)
		if reboot.BootedAt < now.WallMs-6000 || reboot.Kernel != "6.13" {
			rt.Fatalf("after a reboot: %+v", reboot)
		}
	})
}

// The machine that the test runs on says what it has.
func TestInventory_OfThisMachine(t *testing.T) {
	got := NewSnapshot("web-01", states.New(), slog.New(slog.DiscardHandler)).Inventory()
	if want, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil && got.Kernel != strings.TrimSpace(string(want)) {
		t.Errorf("kernel %q, want %q", got.Kernel, want)
	}
	if _, err := host.Free(fleet.StoreDir); err == nil && got.DiskFree == 0 || got.BootedAt == 0 {
		t.Errorf("inventory %+v", got)
	}
}
