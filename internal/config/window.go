// SPDX-License-Identifier: MIT

package config

import (
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/arcanesys/nixfleet/fleet"
)

// WindowOpen reports whether t lies in the reboot window; with another policy
// than RebootWindow there is none, and it is always open. A window is written as
// five cron fields for its beginning, its length, and a time zone (UTC if
// none): "0 3 * * * 2h Europe/Paris".
func (r Reboot) WindowOpen(t time.Time) (bool, error) {
	if r.Policy != RebootWindow {
		return true, nil
	}
	f := strings.Fields(r.Window)
	if len(f) != 6 && len(f) != 7 {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: want five cron fields, a length and a time zone", r.Window).
			WithHint(`such as "0 3 * * * 2h Europe/Paris"`)
	}
	length, err := time.ParseDuration(f[5])
	if err != nil || length <= 0 || length > 7*24*time.Hour {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %q is not a length such as 2h", r.Window, f[5])
	}
	zone := time.UTC
	if len(f) == 7 {
		if zone, err = time.LoadLocation(f[6]); err != nil {
			return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %w", r.Window, err)
		}
	}
	schedule, err := cron.ParseStandard(strings.Join(f[:5], " "))
	if err != nil {
		return false, fleet.Errorf(fleet.Invalid, "reboot window %q: %w", r.Window, err)
	}
	begin := schedule.Next(t.In(zone).Add(-length))
	return !begin.IsZero() && !begin.After(t), nil
}
