// SPDX-License-Identifier: MIT

package host

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// Now reads the clocks. Seconds since boot count sleep.
func Now() (states.Moment, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return states.Moment{}, fmt.Errorf("read boot id: %w", err)
	}
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return states.Moment{}, fmt.Errorf("read time of boot: %w", err)
	}
	now := time.Now()
	return states.Moment{WallMs: now.UnixMilli(), Boot: max(0, now.Sub(time.Unix(tv.Unix())).Seconds()), BootID: id}, nil
}

// Kernel is the release of the kernel that runs; "" if it cannot be read.
func Kernel() string {
	v, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return ""
	}
	return v
}
