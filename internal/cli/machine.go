// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/inventory"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (a *app) machineCmd() *cobra.Command {
	c := &cobra.Command{Use: "machine", Short: "The machines of the fleet", Example: "  nixfleet machine list\n  nixfleet machine token web-01"}
	c.AddCommand(a.machineListCmd(), a.machineShowCmd(), a.machineTokenCmd(), a.machineRegisterCmd(), a.machineLifecycleCmd(), a.machineTagCmd(), a.machineAdoptCmd())
	c.AddCommand(inventory.Commands(inventory.Host{Line: a.Line, Client: a.client})...)
	return c
}

func (a *app) machineListCmd() *cobra.Command {
	var tag, lifecycle string
	var wide bool
	var f fleet.MachineFilter
	c := &cobra.Command{
		Use: "list", Short: "List machines: what they should run, what they run, their health",
		Example: "  nixfleet machine list --tag web\n  nixfleet machine list --wide",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Tag, f.Lifecycle = fleet.Tag(tag), fleet.Lifecycle(lifecycle)
			if lifecycle != "" && !f.Lifecycle.Valid() {
				return command.Usagef("--lifecycle %q is not pending, provisioning, active, maintenance or decommissioned", lifecycle)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := all(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Machine], error) {
				return c.Machines(ctx, f, p)
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) {
				if f.Behind {
					view.Behind(w, list)
					return
				}
				header := "MACHINE LIFECYCLE AGENT HEALTH DESIRED RUNS SEEN NOTES TAGS"
				if wide {
					header += " " + inventory.Columns
				}
				rows := make([][]string, len(list))
				for i, m := range list {
					desired := "-"
					if m.Desired != nil {
						desired = m.Desired.Digest.Short()
					}
					rows[i] = []string{
						string(m.ID), string(m.Lifecycle), view.Dash(string(m.State)), view.Dash(string(m.Health)), desired,
						view.Dash(m.RunsRelease.Short()), since(m.LastContact), view.Dash(notes(m)), tagList(m.Tags.Effective),
					}
					if wide {
						rows[i] = append(rows[i], inventory.Row(m, time.Now())...)
					}
				}
				view.Table(w, header, rows)
			})
		},
	}
	c.Flags().StringVar(&tag, "tag", "", "only machines with this tag")
	c.Flags().StringVar(&lifecycle, "lifecycle", "", "only machines in this lifecycle state")
	c.Flags().BoolVar(&f.Behind, "behind", false, "only machines that have to catch up, because a rollout completed without them")
	c.Flags().BoolVar(&wide, "wide", false, "also address, uptime, free disk, kernel and version of the agent")
	c.Flags().BoolVar(&f.Offline, "offline", false, "only machines that are offline")
	c.Flags().BoolVar(&f.Drift, "drift", false, "only machines that run something else than was activated")
	return c
}

// notes are what is out of the ordinary with a machine.
func notes(m fleet.Machine) string {
	var words []string
	for _, n := range []struct {
		is   bool
		word string
	}{{m.Offline, "offline"}, {m.Drift, "drift"}, {m.NeedsReboot, "needs-reboot"}, {m.Behind != nil, "behind"}} {
		if n.is {
			words = append(words, n.word)
		}
	}
	return strings.Join(words, ",")
}

func (a *app) machineShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show MACHINE", Short: "Show a machine and its last reports", Example: "  nixfleet machine show web-01",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			m, err := c.Machine(cmd.Context(), id)
			if err != nil {
				return err
			}
			reports, err := c.MachineReports(cmd.Context(), id, fleet.PageRequest{Limit: 10})
			if err != nil {
				return err
			}
			out := struct {
				fleet.Machine
				Reports []fleet.Report `json:"reports"`
			}{m, reports.Items}
			return a.Print(out, func(w io.Writer) {
				fmt.Fprintf(w, "%s  %s, agent %s %s, seen %s\n", m.ID, m.Lifecycle, view.Dash(string(m.State)), m.Waiting, since(m.LastContact))
				fmt.Fprintf(w, "  running       %s\n  booted        %s\n  boot default  %s\n", view.Dash(string(m.Running)), view.Dash(string(m.Booted)), view.Dash(string(m.BootDefault)))
				if m.Desired != nil {
					fmt.Fprintf(w, "  desired       %s (release %s, rollout %s)\n", m.Desired.StorePath, m.Desired.Digest.Short(), m.Desired.Rollout)
				}
				if b := m.Behind; b != nil {
					fmt.Fprintf(w, "  behind        rollout %s, completed %s without it; %s\n", b.Rollout, view.Date(b.Since), b.Why)
				}
				if said := inventory.Row(m, time.Now()); m.Inventory != nil {
					fmt.Fprintf(w, "  address       %s\n  up            %s\n  disk free     %s\n  kernel        %s\n", said[0], said[1], said[2], said[3])
				}
				if m.Formerly != "" {
					fmt.Fprintf(w, "  formerly      %s\n", m.Formerly)
				}
				if n := notes(m); n != "" {
					fmt.Fprintf(w, "  notes         %s\n", n)
				}
				fmt.Fprintf(w, "  tags          %s\n", tagList(m.Tags.Effective))
				for _, ch := range m.Checks {
					fmt.Fprintf(w, "  check %-8s %s  %s\n", ch.Name, ch.Status, ch.Observed)
				}
				rows := make([][]string, len(reports.Items))
				for i, r := range reports.Items {
					rows[i] = []string{view.Date(r.At), string(r.Kind), view.Dash(first(string(r.Outcome), string(r.Phase))), view.Dash(string(r.Reason)), view.OneLine(r.Message)}
				}
				view.Table(w, "AT REPORT RESULT REASON MESSAGE", rows)
			})
		},
	}
}

func (a *app) machineRegisterCmd() *cobra.Command {
	var tags []string
	var lifecycle string
	c := &cobra.Command{
		Use: "register MACHINE", Short: "Add a machine to the inventory before it enrols", Example: "  nixfleet machine register web-01 --tag prod",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			state := fleet.Lifecycle(lifecycle)
			if !slices.Contains([]fleet.Lifecycle{fleet.Pending, fleet.Provisioning, fleet.Active}, state) {
				return command.Usagef("--lifecycle %q is not pending, provisioning or active", lifecycle)
			}
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			m, err := c.RegisterMachine(cmd.Context(), api.MachineRequest{ID: id, Tags: toTags(tags), Lifecycle: state})
			if err != nil {
				return err
			}
			return a.printMachine(m)
		},
	}
	c.Flags().StringSliceVar(&tags, "tag", nil, "tag of the machine")
	c.Flags().StringVar(&lifecycle, "lifecycle", string(fleet.Pending), "pending, provisioning or active")
	return c
}

func (a *app) machineLifecycleCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set-lifecycle MACHINE STATE", Short: "Set the lifecycle: pending, provisioning, active, maintenance, decommissioned",
		Example: "  nixfleet machine set-lifecycle db-01 maintenance",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, argv []string) error {
			state := fleet.Lifecycle(argv[1])
			if !state.Valid() {
				return command.Usagef("%q is not pending, provisioning, active, maintenance or decommissioned", argv[1])
			}
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			m, err := c.SetLifecycle(cmd.Context(), id, state)
			if err != nil {
				return err
			}
			return a.printMachine(m)
		},
	}
}

func (a *app) machineTagCmd() *cobra.Command {
	var add, remove []string
	c := &cobra.Command{
		Use: "tag MACHINE", Short: "Add or remove tags that operators set on a machine", Example: "  nixfleet machine tag web-01 --add canary --remove old",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if len(add)+len(remove) == 0 {
				return command.Usagef("give --add TAG or --remove TAG")
			}
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			m, err := c.Machine(cmd.Context(), id)
			if err != nil {
				return err
			}
			tags := append(m.Tags.Operator, toTags(add)...)
			tags = slices.DeleteFunc(tags, func(t fleet.Tag) bool { return slices.Contains(remove, string(t)) })
			slices.Sort(tags)
			m, err = c.SetTags(cmd.Context(), id, api.TagsRequest{Tags: slices.Compact(tags), IfVersion: m.Version})
			if err != nil {
				return err
			}
			return a.printMachine(m)
		},
	}
	c.Flags().StringSliceVar(&add, "add", nil, "tags to add")
	c.Flags().StringSliceVar(&remove, "remove", nil, "tags to remove")
	return c
}

func (a *app) machineAdoptCmd() *cobra.Command {
	return &cobra.Command{
		Use: "adopt MACHINE", Short: "Accept a machine that has a valid certificate but is not in the inventory", Example: "  nixfleet machine adopt web-01",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			id, c, err := a.machineArg(argv[0])
			if err != nil {
				return err
			}
			m, err := c.AdoptMachine(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.printMachine(m)
		},
	}
}

func (a *app) machineArg(word string) (fleet.MachineID, *api.Client, error) {
	id, err := fleet.ParseMachineID(word)
	if err != nil {
		return "", nil, command.Exit(command.ExitUsage, err)
	}
	c, err := a.client()
	return id, c, err
}

func (a *app) printMachine(m fleet.Machine) error {
	return a.Print(m, func(w io.Writer) {
		fmt.Fprintf(w, "%s is %s, tags %s\n", m.ID, m.Lifecycle, tagList(m.Tags.Effective))
	})
}

func toTags(words []string) []fleet.Tag {
	tags := make([]fleet.Tag, len(words))
	for i, w := range words {
		tags[i] = fleet.Tag(w)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// since shows how long ago something was.
func since(ms int64) string {
	if ms == 0 {
		return "never"
	}
	return time.Since(time.UnixMilli(ms)).Round(time.Second).String() + " ago"
}
