// SPDX-License-Identifier: MIT

package agent

import (
	"context"

	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
)

// Watchdog looks once whether the machine has to go back to the system before,
// and takes it there. A timer runs it again and again.
func Watchdog(ctx context.Context, o Options) error {
	cfg, err := ReadConfig(o.ConfigFile)
	if err != nil {
		return err
	}
	return machine.Watchdog(ctx, disk.Dir(cfg.StateDir), o.Log)
}
