// SPDX-License-Identifier: MIT

package agent

import (
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/arcanesys/nixfleet/fleet"
)

// windowOpen reports whether t lies in a window written as five cron fields for
// its beginning, its length, and a time zone (UTC if none): "0 3 * * * 2h
// Europe/Paris".
func windowOpen(window string, t time.Time) (bool, error) {
	f := strings.Fields(window)
	if len(f) != 6 && len(f) != 7 {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: want five cron fields, a length and a time zone", window).
			WithHint(`such as "0 3 * * * 2h Europe/Paris"`)
	}
	length, err := time.ParseDuration(f[5])
	if err != nil || length <= 0 || length > 7*24*time.Hour {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %q is not a length such as 2h", window, f[5])
	}
	zone := time.UTC
	if len(f) == 7 {
		if zone, err = time.LoadLocation(f[6]); err != nil {
			return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %w", window, err)
		}
	}
	schedule, err := cron.ParseStandard(strings.Join(f[:5], " "))
	if err != nil {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %w", window, err)
	}
	begin := schedule.Next(t.In(zone).Add(-length))
	return !begin.IsZero() && !begin.After(t), nil
}
