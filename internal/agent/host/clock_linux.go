// SPDX-License-Identifier: MIT

package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// Now reads the clocks. Seconds since boot count sleep, and begin with PID 1:
// in a container that is when the container began.
func Now() (states.Moment, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return states.Moment{}, fmt.Errorf("read boot id: %w", err)
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return states.Moment{}, fmt.Errorf("read time since boot: %w", err)
	}
	first, _, _ := strings.Cut(string(up), " ")
	boot, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return states.Moment{}, fmt.Errorf("read time since boot: %w", err)
	}
	return states.Moment{WallMs: time.Now().UnixMilli(), Boot: max(0, boot-initStart()), BootID: strings.TrimSpace(string(id))}, nil
}

// initStart is when PID 1 started, in seconds since the kernel's boot.
func initStart() float64 {
	const ticks = 100 // USER_HZ, the same on all of Linux' architectures that Nix knows
	stat, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may hold anything
	f := strings.Fields(after)
	if len(f) < 20 {
		return 0
	}
	start, err := strconv.ParseFloat(f[19], 64)
	if err != nil {
		return 0
	}
	return start / ticks
}

// Kernel is the release of the kernel that runs; "" if it cannot be read.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
