// SPDX-License-Identifier: MIT

package agent

import (
	"context"

	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Watchdog checks once whether the machine must roll back, and does so. A timer
// runs it repeatedly.
func Watchdog(ctx context.Context, o Options) error {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return err
	}
	return machine.Watchdog(ctx, disk.Dir(cfg.StateDir), o.Log)
}
