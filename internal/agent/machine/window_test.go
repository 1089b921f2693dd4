// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// rebooter notes when it is asked to reboot.
type rebooter struct {
	host.Supervisor
	at time.Time
}

func (r *rebooter) Reboot(context.Context) error {
	r.at = time.Now()
	return errors.New("a test does not reboot")
}

// ordered is a journal with an order that may begin inside windows only.
func ordered(windows ...string) states.Journal {
	j := states.New()
	o := someOrder
	o.Windows = windows
	j.Work = &states.Work{Order: o}
	return j
}

// Whatever the machine's own policy is, it reboots into a release only inside the
// windows of the rollout, also when it has not heard of its control plane since.
func TestAwaitReboot_WaitsForTheRolloutsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := testMachine(t, &fakePlane{down: true})
		r := &rebooter{}
		m.Supervisor = r
		begun := time.Now()
		m.awaitReboot(t.Context(), ordered("0 2 * * * 1h"))
		if wait := r.at.Sub(begun); wait < 2*time.Hour || wait > 2*time.Hour+time.Minute {
			t.Errorf("rebooted %s after midnight, want 2h", wait)
		}
	})
}

// Nor outside the reboot windows of the rollout, which are inside its windows.
func TestAwaitReboot_WaitsForTheRolloutsRebootWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := testMachine(t, &fakePlane{down: true})
		r := &rebooter{}
		m.Supervisor = r
		j := ordered("0 2 * * * 4h")
		j.Work.Order.Reboot, j.Work.Order.RebootWindows = fleet.RebootWindow, []string{"0 1 * * * 30m", "30 4 * * * 30m"}
		begun := time.Now()
		m.awaitReboot(t.Context(), j)
		if wait := r.at.Sub(begun); wait < 270*time.Minute || wait > 271*time.Minute {
			t.Errorf("rebooted %s after midnight, want 4h30m", wait)
		}
	})
}

func TestPrepare_HoldsOutsideTheRolloutsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := testMachine(t, &fakePlane{})
		in := m.prepare(t.Context(), ordered("0 2 * * * 1h"))
		if h, ok := in.(states.Held); !ok || !strings.Contains(h.Why, "windows of rollout r1") {
			t.Errorf("prepared outside the window: %+v", in)
		}
		if _, held := m.prepare(t.Context(), ordered("0 0 * * * 1h")).(states.Held); held {
			t.Error("held inside the window")
		}
	})
}
