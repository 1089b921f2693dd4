// SPDX-License-Identifier: MIT

// Package rules are the commands about what rollouts have to keep to: policies,
// schedules, budgets, gates, and a freeze of the whole fleet.
//
// It never decides whether a rollout goes on.
package rules

import (
	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/internal/command"
)

// Host is the command line that the commands are part of.
type Host struct {
	*command.Line
	Client func() (*api.Client, error)
}

// Commands are nixfleet policy, schedule, budget, gate, freeze and unfreeze.
func Commands(h Host) []*cobra.Command {
	return []*cobra.Command{h.policyCmd(), h.scheduleCmd(), h.budgetCmd(), h.gateCmd(), h.freezeCmd(), h.unfreezeCmd()}
}
