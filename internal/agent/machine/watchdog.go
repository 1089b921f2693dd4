// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// watchdogTries is how often the watchdog tries to roll back.
const watchdogTries = 3

// Watchdog checks once whether the machine must roll back, and does so: with the
// previous system's own switch program, which a GC root keeps, and without the
// network, the agent or the control plane (A10). A timer runs it repeatedly.
func Watchdog(ctx context.Context, dir disk.Dir, log *slog.Logger) error {
	now, err := host.Now()
	if err != nil {
		return err
	}
	file := dir.Watch()
	order, armed, err := file.Read()
	if err != nil || !armed || !order.Due(now.BootID, now.Boot) {
		return err
	}
	order.Fired, order.Tries = true, order.Tries+1
	if err = file.Write(order); err != nil {
		log.Error("the watchdog's state cannot be written", "error", err) // it rolls back nevertheless
	}
	log.Warn("the new system was not confirmed in time: rolling back", "system", order.Previous, "try", order.Tries)
	message, err := rollBack(ctx, order, dir.Switches())
	if err != nil && order.Tries < watchdogTries {
		return err
	}
	order.Done, order.Message = true, message
	if err != nil {
		order.Message = err.Error()
	}
	return file.Write(order)
}

func rollBack(ctx context.Context, order disk.Watch, dir string) (string, error) {
	if err := nix.SetProfile(ctx, order.Previous); err != nil {
		return "", err
	}
	s := host.Switch{
		Name: fmt.Sprintf("%s-%d", order.Unit, order.Tries), Dir: dir, Limit: 10 * time.Minute,
		Program: string(order.Previous) + "/bin/switch-to-configuration", Args: []string{"switch"},
	}
	if host.System().Darwin() {
		s.Program, s.Args = string(order.Previous)+"/activate", nil
	}
	res, err := host.New().Run(ctx, s)
	switch {
	case err != nil:
		return "", err
	case res.Code != 0 && res.Code != 4, nix.Generations().Running != order.Previous:
		return "", fmt.Errorf("the previous system's switch exited %d: %s", res.Code, res.Output)
	}
	return "the watchdog rolled back: the new system was not confirmed in time", nil
}
