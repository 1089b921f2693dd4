// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// awaitReboot reboots into the target once the machine's policy allows it.
func (m *Machine) awaitReboot(ctx context.Context, j states.Journal) states.Input {
	return m.reboot(ctx, func(t time.Time) bool { return mayBegin(j, t) && mayReboot(j, t) && m.inWindow(t) })
}

// mayBegin reports whether the order at work lets the machine switch or reboot at
// t. Windows that cannot be read are never open.
func mayBegin(j states.Journal, t time.Time) bool {
	c, err := fleet.ParseCalendar(j.Work.Order.Windows, j.Work.Order.Blackouts)
	return err == nil && c.Open(t)
}

// mayReboot reports whether the order at work lets the machine reboot at t, by its
// reboot windows.
func mayReboot(j states.Journal, t time.Time) bool {
	c, err := fleet.ParseCalendar(j.Work.Order.RebootWindows, nil)
	return err == nil && c.Open(t)
}

// rollbackReboot reboots into the previous system at once.
func (m *Machine) rollbackReboot(ctx context.Context, _ states.Journal) states.Input {
	return m.reboot(ctx, func(time.Time) bool { return true })
}

// inWindow reports whether the machine's policy allows a reboot at t.
func (m *Machine) inWindow(t time.Time) bool {
	open, err := m.Agent.Reboot.WindowOpen(t)
	if err != nil {
		m.log.Error("the reboot window is invalid", "window", m.Agent.Reboot.Window, "error", err)
	}
	return open
}

// reboot waits until it may, gives queued reports time to be sent, and reboots.
func (m *Machine) reboot(ctx context.Context, may func(time.Time) bool) states.Input {
	for !may(time.Now()) {
		if !wait.For(ctx, 10*time.Second) {
			return nil
		}
	}
	for range 50 {
		if m.Outbox.Len() == 0 || !wait.For(ctx, 100*time.Millisecond) {
			break
		}
	}
	if err := m.Supervisor.Reboot(ctx); err != nil && wait.For(ctx, askGrace) {
		return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: err.Error()}
	}
	m.log.Info("rebooting")
	if !wait.For(ctx, 10*time.Minute) {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: "the machine did not reboot within 10 minutes"}
}
