// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// inWindow reports whether the machine's policy lets it reboot at t.
func (w *world) inWindow(t time.Time) bool {
	if w.cfg.Reboot.Policy != config.RebootWindow {
		return true
	}
	open, err := windowOpen(w.cfg.Reboot.Window, t)
	if err != nil {
		w.log.Error("the reboot window makes no sense", "window", w.cfg.Reboot.Window, "error", err)
	}
	return open
}

// reboot waits until it may, lets the reports go out, and reboots.
func (w *world) reboot(ctx context.Context, may func(time.Time) bool) states.Input {
	for !may(time.Now()) {
		if !wait.For(ctx, 10*time.Second) {
			return nil
		}
	}
	for range 50 {
		if w.outbox.Len() == 0 || !wait.For(ctx, 100*time.Millisecond) {
			break
		}
	}
	if err := w.sup.Reboot(ctx); err != nil && wait.For(ctx, askGrace) {
		return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: err.Error()}
	}
	w.log.Info("rebooting")
	if !wait.For(ctx, 10*time.Minute) {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: "the machine did not reboot within 10 minutes"}
}
