// SPDX-License-Identifier: MIT

package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/undo"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

// undoOptions are the options of `rollout undo`.
type undoOptions struct {
	createOptions
	yes     bool
	wait    bool
	timeout time.Duration
}

func (a *app) rolloutUndoCmd() *cobra.Command {
	var o undoOptions
	c := &cobra.Command{
		Use: "undo ROLLOUT", Short: "Make and roll out a release of what machines ran before a rollout",
		Long: `Make and roll out a release of what machines ran before a rollout.

Machines accept no older release, so this signs and registers a new one, with each machine's entry
of the release that it ran before, and rolls it out with the options of the rollout that it undoes.
Left out is a machine that a later rollout has reached, that runs what it ran before already, or
that ran no registered release. The rollout must have ended; nixfleet rollout revert orders the
machines of one that has not to roll back.`,
		Example: "  nixfleet rollout undo 01j8 --sign-key trust/keys/release.sec --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			o.given = cmd.Flags().Changed
			return a.undoRollout(cmd.Context(), argv, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", `a name for the release and the rollout (default "undo of ROLLOUT")`)
	f.StringVar(&o.root, "root", "", "the fleet's root document, which the releases are checked with (nixfleet.toml: root)")
	f.StringVar(&o.after, "after", "", "follow this release of the line, if its newest cannot be verified: after new release keys, or a restored backup")
	o.keys.Register(f)
	f.StringVar(&o.cache, "cache", "", "URL of the binary cache that machines fetch from (nixfleet.toml: cache)")
	f.StringArrayVar(&o.cacheKey, "cache-key", nil, "public key by which machines accept paths from the cache")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what machines would run again; sign and start nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.wait, "wait", false, "follow the rollout to its end")
	f.DurationVar(&o.timeout, "timeout", 0, "with --wait: stop following after this time")
	return c
}

func (a *app) undoRollout(ctx context.Context, argv []string, o undoOptions) error {
	filled, err := a.fill(o.createOptions)
	if err != nil {
		return err
	}
	o.createOptions = filled
	if err = o.needsRoot("rollout undo"); err != nil {
		return err
	}
	signers, err := a.signers(ctx, o.createOptions)
	if err != nil {
		return err
	}
	caches, err := o.caches()
	if err != nil {
		return err
	}
	c, id, err := a.rolloutArg(ctx, argv)
	if err != nil {
		return err
	}
	root, err := a.fleetRoot(ctx, o.createOptions, signers)
	if err != nil {
		return err
	}
	v, err := viewRollout(ctx, c, id)
	if err != nil {
		return err
	}
	if !v.State.Final() {
		return fleet.Errorf(fleet.Conflict, "rollout %s is %s", id, v.State).
			WithHint("end it first: nixfleet rollout revert orders its machines to roll back, nixfleet rollout cancel leaves them")
	}
	out, err := undo.Of(ctx, c, id, v.Assignments, root)
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.Print(out, func(w io.Writer) {
			fmt.Fprintln(w, "dry run, nothing was signed; these machines would run again:")
			undoText(w, out)
		})
	}
	if err = a.mayUndo(out, o.yes); err != nil {
		return err
	}
	o.name = cmp.Or(o.name, "undo of "+string(id))
	h, err := a.undoHeader(ctx, c, v.Spec.Release, root, o.header(root, out.Source(), caches, time.Now()), o.after)
	if err != nil {
		return err
	}
	w := &work{app: a, o: o.createOptions, spent: map[string]int64{}}
	if out.Release, err = w.register(ctx, c, root, signers, h, out.Entries()); err != nil {
		return err
	}
	return a.rollUndoOut(ctx, c, v.Spec, out, o)
}

// undoHeader returns a header that is the next of a release's line.
func (a *app) undoHeader(ctx context.Context, c *api.Client, of fleet.Digest, root fleet.Root, h fleet.Header, after string) (fleet.Header, error) {
	r, err := c.Release(ctx, of)
	if err != nil {
		return h, err
	}
	h.Line = r.Header.Line
	if h.Sequence, h.PreviousDigest, err = a.next(ctx, c, h.Line, root, after); err != nil {
		return h, err
	}
	h.AuditHead, err = a.auditHead(ctx, c)
	return h, err
}

// rollUndoOut starts the rollout of the new release, as the one that it undoes
// was.
func (a *app) rollUndoOut(ctx context.Context, c *api.Client, spec fleet.RolloutSpec, out undo.Plan, o undoOptions) error {
	spec, err := out.Spec(spec, o.name)
	if err != nil {
		return err
	}
	d, err := c.CreateRollout(ctx, api.RolloutRequest{Spec: spec})
	if err != nil {
		return fleet.Errorf(fleet.ErrorCode(err), "release %s is registered, but was not rolled out: %w", out.Release.Short(), err).
			WithHint("nixfleet rollout create --release %s", out.Release.Short())
	}
	if out.Rollout = &d; !o.wait {
		return a.Print(out, func(w io.Writer) {
			planText(w, d, false)
			undoText(w, out)
		})
	}
	a.Say("rollout %s of release %s on %d machines", d.ID, out.Release.Short(), d.Machines)
	return a.follow(ctx, c, d.ID, o.timeout)
}

func undoText(w io.Writer, u undo.Plan) {
	rows := make([][]string, len(u.Machines))
	for i, m := range u.Machines {
		rows[i] = []string{string(m.ID), m.Release.Short(), fmt.Sprint(m.Sequence), view.Date(m.CreatedAt), string(m.StorePath)}
	}
	view.Table(w, "MACHINE RELEASE SEQ MADE PATH", rows)
	for _, l := range u.LeftOut {
		fmt.Fprintf(w, "left out: %s, %s\n", l.Machine, l.Why)
	}
}

// mayUndo asks: the control plane says what machines ran before, and a person sees
// whether these releases are the right ones.
func (a *app) mayUndo(u undo.Plan, yes bool) error {
	if yes {
		return nil
	}
	undoText(a.Stderr, u)
	a.Say("sign a new release of these systems, and roll it out? [y/N]")
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	case "":
		if err != nil {
			return command.Usagef("nobody answered; nothing was signed: give --yes")
		}
	}
	return command.Exit(command.ExitCancelled, fleet.Errorf(fleet.Refused, "nothing was signed"))
}
