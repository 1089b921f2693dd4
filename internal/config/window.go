// SPDX-License-Identifier: MIT

package config

import (
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// WindowOpen reports whether t lies in the reboot window, as fleet.ParseWindow
// reads it; with another policy than fleet.RebootWindow there is none, and it is always
// open.
func (r Reboot) WindowOpen(t time.Time) (bool, error) {
	if r.Policy != fleet.RebootWindow {
		return true, nil
	}
	w, err := fleet.ParseWindow(r.Window)
	if err != nil {
		return false, err
	}
	return w.Open(t), nil
}
