// SPDX-License-Identifier: MIT

// Package inventory are the commands that give machines other names or forget them,
// and how what machines say of themselves looks.
//
// It never asks for more than the inventory has.
package inventory

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// Host is the command line that the commands are part of.
type Host struct {
	*command.Line
	Client func() (*api.Client, error)
}

// Commands are nixfleet machine rename and delete.
func Commands(h Host) []*cobra.Command { return []*cobra.Command{h.renameCmd(), h.deleteCmd()} }

func (h Host) machine(word string) (fleet.MachineID, *api.Client, error) {
	id, err := fleet.ParseMachineID(word)
	if err != nil {
		return "", nil, command.Exit(command.ExitUsage, err)
	}
	c, err := h.Client()
	return id, c, err
}

func (h Host) renameCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rename MACHINE NAME", Short: "Give a machine another name, under which it enrols anew",
		Long: `Give a machine another name, under which it enrols anew.

Certificates, enrolment tokens, grants and signed entries are bound to the old name and do not pass
for the new one. The tags that operators set are kept. What happened under the old name stays with
it: that name is decommissioned, or deleted if nothing happened. Not possible while a rollout that
has not ended has the machine.`,
		Example: "  nixfleet machine rename web-1 web-01\n  nixfleet machine token web-01",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, argv []string) error {
			to, err := fleet.ParseMachineID(argv[1])
			if err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			id, c, err := h.machine(argv[0])
			if err != nil {
				return err
			}
			m, err := c.RenameMachine(cmd.Context(), id, api.RenameRequest{To: to})
			if err != nil {
				return err
			}
			h.Say("it has to enrol again: nixfleet machine token %s", m.ID)
			return h.Print(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s is now %s, %s, tags %v\n", id, m.ID, m.Lifecycle, m.Tags.Effective)
			})
		},
	}
}

func (h Host) deleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete MACHINE", Short: "Delete a machine that has never enrolled", Example: "  nixfleet machine delete wbe-01", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			id, c, err := h.machine(argv[0])
			if err != nil {
				return err
			}
			if err = c.DeleteMachine(cmd.Context(), id); err != nil {
				return err
			}
			return h.Print(map[string]fleet.MachineID{"deleted": id}, func(w io.Writer) { fmt.Fprintf(w, "machine %s is deleted\n", id) })
		},
	}
}
