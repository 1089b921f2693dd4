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
	"github.com/arcanesys/nixfleet/internal/cli/options"
	"github.com/arcanesys/nixfleet/internal/cli/timeline"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (a *app) rolloutCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rollout", Short: "Bring machines to a release, batch by batch",
		Example: "  nixfleet rollout create --strategy canary --wait\n  nixfleet rollout watch",
	}
	c.AddCommand(a.rolloutCreateCmd(), a.rolloutListCmd(), a.rolloutShowCmd(), a.rolloutWatchCmd(), a.rolloutExplainCmd(), a.rolloutUndoCmd(), a.rolloutDeleteCmd(),
		timeline.Command(timeline.Host{Line: a.Line, Rollout: a.rolloutArg}))
	for _, v := range []struct {
		verb    api.Verb
		short   string
		machine bool
	}{
		{api.VerbPause, "Offer the release to no more machines; machines at work finish", false},
		{api.VerbResume, "Continue; failures up to now no longer count", false},
		{api.VerbCancel, "End a rollout; machines stay on what they run", false},
		{api.VerbApprove, "Open the batch that waits for approval", false},
		{api.VerbRetry, "Give machines that failed or were skipped another attempt", true},
		{api.VerbSkip, "Continue without these machines", true},
		{api.VerbRevert, "Order machines that switched to roll back", true},
	} {
		c.AddCommand(a.rolloutVerbCmd(v.verb, v.short, v.machine))
	}
	return c
}

// createRolloutOptions are the options of `rollout create`.
type createRolloutOptions struct {
	options.Rollout
	dryRun  bool
	wait    bool
	timeout time.Duration
}

func (a *app) rolloutCreateCmd() *cobra.Command {
	var o createRolloutOptions
	c := &cobra.Command{
		Use: "create", Short: "Start a rollout",
		Long: `Start a rollout.

Machines are updated in batches. A batch opens when the one before it has passed: its machines are
healthy, except for the failures that --max-failures tolerates, and the soak is over. Percentages
are cumulative: 1,50%,100% of six machines are batches of 1, 2 and 3.`,
		Example: "  nixfleet rollout create --release latest --strategy canary --wait\n" +
			"  nixfleet rollout create --strategy staged --batches 1,25%,100% --on @web --soak 10m --dry-run",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.createRollout(cmd.Context(), o, cmd.Flags().Changed)
		},
	}
	f := c.Flags()
	o.Register(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "show batches, and who is left out and why; change nothing")
	f.BoolVar(&o.wait, "wait", false, "follow the rollout to its end")
	f.DurationVar(&o.timeout, "timeout", 0, "with --wait: stop following after this time")
	return c
}

func (a *app) createRollout(ctx context.Context, o createRolloutOptions, isGiven func(flag string) bool) error {
	spec, err := o.Fill()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if o.Policy != "" {
		if spec, err = o.byPolicy(ctx, c, isGiven); err != nil {
			return err
		}
	}
	r, err := a.findRelease(ctx, c, o.Release)
	if err != nil {
		return err
	}
	spec.Release = r.Digest
	spec = spec.Defaults()
	if err = spec.Validate(); err != nil {
		return command.Exit(command.ExitUsage, err)
	}
	out, err := c.CreateRollout(ctx, api.RolloutRequest{Spec: spec, DryRun: o.dryRun})
	if err != nil {
		return err
	}
	if !o.wait || o.dryRun {
		return a.Print(out, func(w io.Writer) { planText(w, out, o.dryRun) })
	}
	a.Say("rollout %s of release %s on %d machines", out.ID, r.Digest.Short(), out.Machines)
	return a.follow(ctx, c, out.ID, o.timeout)
}

// afterText says what a batch begins after by the order of groups.
func afterText(d api.RolloutDetail, batch int) string {
	if batch >= len(d.Batches) || d.Batches[batch].Group == 0 || batch > 0 && d.Batches[batch-1].Group == d.Batches[batch].Group {
		return ""
	}
	return "; begins when " + strings.Join(d.Spec.After[:d.Batches[batch].Group], ", ") + " are done"
}

// byPolicy is the spec of a rollout by the policy that is named.
func (o *createRolloutOptions) byPolicy(ctx context.Context, c *api.Client, isGiven func(flag string) bool) (fleet.RolloutSpec, error) {
	p, err := c.Policy(ctx, o.Policy)
	if err != nil {
		return fleet.RolloutSpec{}, err
	}
	return o.FillOver(p, isGiven)
}

func planText(w io.Writer, d api.RolloutDetail, dry bool) {
	if dry {
		fmt.Fprintln(w, "dry run, nothing was started; the rollout would be:")
	} else {
		fmt.Fprintf(w, "%s\n", d.ID)
	}
	if d.Plan == nil {
		return
	}
	for i, b := range d.Plan.Batches {
		fmt.Fprintf(w, "  batch %d: %s%s\n", i+1, machineNames(b), afterText(d, i))
		if i < len(d.Plan.Tolerated) && d.Plan.Tolerated[i] > 0 {
			fmt.Fprintf(w, "    tolerates %d of %d failed; machines that leave or are skipped change neither\n", d.Plan.Tolerated[i], len(b))
		}
	}
	ch := d.Plan.Changes
	fmt.Fprintf(w, "  %d machines: %d switch, %d run it already, %d need a reboot; %s of closures\n", ch.Machines, ch.Switch, ch.Converged, ch.Reboot, size(ch.Bytes))
	if d.Plan.Begins != 0 {
		fmt.Fprintf(w, "  begins %s, in its first window\n", view.Date(d.Plan.Begins))
	}
	for _, g := range d.Plan.Gates {
		fmt.Fprintf(w, "  gate %s says of batch 1 now: %s  %s\n", g.Name, g.Answer, g.Message)
	}
	for _, l := range d.Plan.LeftOut {
		fmt.Fprintf(w, "  left out: %s, %s\n", l.Machine, l.Why)
	}
}

func machineNames(ids []fleet.MachineID) string {
	words := make([]string, 0, len(ids))
	for i, id := range ids {
		if i == 20 {
			words = append(words, fmt.Sprintf("and %d more", len(ids)-20))
			break
		}
		words = append(words, string(id))
	}
	return strings.Join(words, " ")
}

func (a *app) rolloutListCmd() *cobra.Command {
	var active bool
	c := &cobra.Command{
		Use: "list", Short: "List rollouts, newest first", Example: "  nixfleet rollout list --active", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := all(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
				return c.Rollouts(ctx, fleet.RolloutFilter{Active: active}, p)
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, r := range list {
					rows[i] = []string{
						string(r.ID), view.Dash(r.Spec.Name), string(r.State), r.Spec.Release.Short(), string(r.Spec.Strategy),
						fmt.Sprint(r.Machines), view.Date(r.CreatedAt), r.CreatedBy, view.OneLine(r.Why),
					}
				}
				view.Table(w, "ROLLOUT NAME STATE RELEASE STRATEGY MACHINES CREATED BY WHY", rows)
			})
		},
	}
	c.Flags().BoolVar(&active, "active", false, "only rollouts that have not ended")
	return c
}

// rolloutView is a rollout with its machines.
type rolloutView struct {
	api.RolloutDetail
	Assignments []fleet.Assignment `json:"assignments"`
}

func (a *app) rolloutShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [ROLLOUT]", Short: "Show a rollout: its batches and machines",
		Long:    "Show a rollout. ROLLOUT is an id, the beginning of one, or a name; without it, the newest.",
		Example: "  nixfleet rollout show", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			v, err := viewRollout(cmd.Context(), c, id)
			if err != nil {
				return err
			}
			return a.Print(v, v.text)
		},
	}
}

func viewRollout(ctx context.Context, c *api.Client, id fleet.RolloutID) (rolloutView, error) {
	d, err := c.Rollout(ctx, id)
	if err != nil {
		return rolloutView{}, err
	}
	list, err := all(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
		return c.Assignments(ctx, id, fleet.AssignmentFilter{Batch: fleet.AllBatches}, p)
	})
	return rolloutView{d, list}, err
}

func (v rolloutView) text(w io.Writer) {
	fmt.Fprintf(w, "%s %s  %s\n", v.ID, v.State, v.Why)
	fmt.Fprintf(w, "release %s, %s, %d machines, started %s by %s\n", v.Spec.Release.Short(), v.Spec.Strategy, v.Machines, view.Date(v.CreatedAt), v.CreatedBy)
	for _, b := range v.Batches {
		n := b.Counts
		fmt.Fprintf(w, "batch %d %s: %d of %d healthy, %d at work, %d failed, %d pending, %d skipped  %s\n", b.Index+1, b.State, n.Healthy, b.Size, n.InFlight+n.RollingBack, n.Failed, n.Pending, n.Skipped, b.Why)
	}
	rows := make([][]string, len(v.Assignments))
	for i, as := range v.Assignments {
		rows[i] = []string{fmt.Sprint(as.Batch + 1), string(as.Machine), string(as.State), fmt.Sprint(as.Attempt), view.Dash(string(as.Outcome)), view.Dash(string(as.Reason)), view.OneLine(first(as.Message, as.Why))}
	}
	view.Table(w, "BATCH MACHINE STATE ATTEMPT OUTCOME REASON MESSAGE", rows)
}

func (a *app) rolloutExplainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain [ROLLOUT]", Short: "Say what a rollout is waiting for", Example: "  nixfleet rollout explain", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			lines, err := c.ExplainRollout(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.Print(lines, func(w io.Writer) {
				if len(lines) == 0 {
					fmt.Fprintf(w, "rollout %s waits for nothing: it has ended; nixfleet rollout show %s says how\n", id, id)
				}
				for _, l := range lines {
					fmt.Fprintln(w, waitingText(l))
				}
			})
		},
	}
}

func waitingText(l api.Waiting) string {
	subject := "rollout"
	switch {
	case l.Machine != "":
		subject = "  " + string(l.Machine)
	case l.Batch >= 0:
		subject = fmt.Sprintf("batch %d", l.Batch+1)
	}
	line := fmt.Sprintf("%-16s %-12s %s", subject, l.State, l.Why)
	if until := max(l.Until, l.Deadline); until != 0 && !strings.Contains(l.Why, "until") {
		line += "; until about " + view.Date(until)
	}
	if l.Do != "" {
		line += "; to go on: " + l.Do
	}
	return line
}

func (a *app) rolloutVerbCmd(verb api.Verb, short string, machines bool) *cobra.Command {
	var req api.VerbRequest
	var on []string
	c := &cobra.Command{
		Use: string(verb) + " [ROLLOUT]", Short: short, Example: "  nixfleet rollout " + string(verb), Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if verb == api.VerbSkip && len(on) == 0 {
				return command.Usagef("give --on with the machines to skip")
			}
			for _, m := range on {
				id, err := fleet.ParseMachineID(m)
				if err != nil {
					return command.Exit(command.ExitUsage, err)
				}
				req.Machines = append(req.Machines, id)
			}
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			warn, err := a.beforeVerb(cmd.Context(), c, id, verb, req.Machines)
			if err != nil {
				return err
			}
			d, err := c.RolloutVerb(cmd.Context(), id, verb, req)
			if err != nil {
				return err
			}
			warn()
			return a.Print(d, func(w io.Writer) { fmt.Fprintf(w, "%s %s  %s\n", d.ID, d.State, d.Why) })
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the audit trail")
	switch {
	case verb == api.VerbSkip:
		c.Example += " --on web-03"
		c.Flags().StringSliceVar(&on, "on", nil, "machines to skip")
	case machines:
		c.Flags().StringSliceVar(&on, "on", nil, "machines (default: all that this applies to)")
	}
	return c
}

// beforeVerb returns what there is to say once the verb has been carried out: a
// machine that was reverted from a release obeys no second order to do so.
func (a *app) beforeVerb(ctx context.Context, c *api.Client, id fleet.RolloutID, verb api.Verb, on []fleet.MachineID) (warn func(), err error) {
	if verb != api.VerbRetry {
		return func() {}, nil
	}
	var names []string
	for as, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
		return c.Assignments(ctx, id, fleet.AssignmentFilter{State: fleet.AssignReverted, Batch: fleet.AllBatches}, p)
	}) {
		if err != nil {
			return nil, err
		}
		if len(on) == 0 || slices.Contains(on, as.Machine) {
			names = append(names, string(as.Machine))
		}
	}
	return func() {
		if len(names) > 0 {
			a.Say("%s: reverted from this release before, and will not be reverted from it again by order; "+
				"to leave it once more, when the rollout has ended: nixfleet rollout undo %s", shorten(names), id)
		}
	}, nil
}

// shorten names a few, and counts the others.
func shorten(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

func (a *app) rolloutDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete ROLLOUT", Short: "Delete a rollout that has ended, with its batches and assignments",
		Long: `Delete a rollout that has ended, with its batches and assignments.

A rollout that says what a machine should run stays, until a later rollout of that machine is healthy. The audit
trail keeps what the rollout did.`,
		Example: "  nixfleet rollout delete 01j8", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			if err := c.DeleteRollout(cmd.Context(), id); err != nil {
				return err
			}
			return a.Print(map[string]any{"deleted": id}, func(w io.Writer) { fmt.Fprintf(w, "deleted rollout %s\n", id) })
		},
	}
}

// rolloutArg finds a rollout by its id, the beginning of one, or a name; without
// a word, the newest.
func (a *app) rolloutArg(ctx context.Context, argv []string) (*api.Client, fleet.RolloutID, error) {
	c, err := a.client()
	if err != nil {
		return nil, "", err
	}
	word := ""
	if len(argv) > 0 {
		word = argv[0]
	}
	var found []fleet.RolloutID
	for r, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
		return c.Rollouts(ctx, fleet.RolloutFilter{}, p)
	}) {
		if err != nil {
			return nil, "", err
		}
		if word == "" || string(r.ID) == word || r.Spec.Name == word {
			return c, r.ID, nil // newest first
		}
		if strings.HasPrefix(strings.ToLower(string(r.ID)), strings.ToLower(word)) {
			found = append(found, r.ID)
		}
	}
	switch {
	case len(found) == 1:
		return c, found[0], nil
	case len(found) > 1:
		return nil, "", fleet.Errorf(fleet.Invalid, "%d rollouts begin with %q", len(found), word).WithHint("give more of the id")
	case word == "":
		return nil, "", fleet.Errorf(fleet.NotFound, "there is no rollout yet").WithHint("nixfleet rollout create starts one")
	}
	return nil, "", fleet.Errorf(fleet.NotFound, "no rollout is called %q", word).WithHint("nixfleet rollout list shows them")
}
