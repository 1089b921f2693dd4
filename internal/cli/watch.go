// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func (a *app) rolloutWatchCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "watch [ROLLOUT]", Short: "Follow a rollout to its end, or until it pauses",
		Long: `Follow a rollout to its end, or until it pauses.

A line on stderr for each change; the rollout as it stands at the end on stdout. The exit code is
0 completed, 3 failed, reverted or paused for failures, 4 cancelled or superseded, 5 timed out.`,
		Example: "  nixfleet rollout watch", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, id, timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long")
	return c
}

var errWatchTimeout = errors.New("watch timed out")

// follow tells what happens in a rollout until it ends or pauses. The event
// stream is resumed when the connection breaks (O05).
func (a *app) follow(ctx context.Context, c *api.Client, id fleet.RolloutID, timeout time.Duration) error {
	outer := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errWatchTimeout)
		defer cancel()
	}
	v, err := a.awaitEnd(ctx, c, id)
	switch {
	case context.Cause(outer) != nil:
		return context.Cause(outer)
	case errors.Is(context.Cause(ctx), errWatchTimeout):
		return &exitError{ExitTimeout, fleet.Errorf(fleet.Unavailable, "rollout %s is not at its end after %s", id, timeout).
			WithHint("it goes on; nixfleet rollout watch follows it again")}
	case err != nil:
		return err
	}
	if err := a.print(v, func(w io.Writer) { v.text(w) }); err != nil {
		return err
	}
	if code := exitCode(v); code != ExitDone {
		return &exitError{code: code}
	}
	return nil
}

// awaitEnd tells each change until the rollout has ended or paused. The stream
// begins before the state is read, so that no change falls between the two:
// one that had ended before is seen at the first event.
func (a *app) awaitEnd(ctx context.Context, c *api.Client, id fleet.RolloutID) (rolloutView, error) {
	begin := time.Now()
	for e, err := range c.Watch(ctx, 0, api.EventQuery{Rollout: id}) {
		if err != nil {
			return rolloutView{}, err
		}
		a.tell(begin, e)
		stands := e.Rollout == nil && e.Batch == nil && e.Assignment == nil && e.Machine == nil && e.Report == nil
		if !stands && (e.Rollout == nil || !atRest(e.Rollout.State)) {
			continue
		}
		// What was paused may have gone on since; the state decides.
		v, err := viewRollout(ctx, c, id)
		if err != nil || atRest(v.State) {
			return v, err
		}
	}
	return rolloutView{}, context.Cause(ctx)
}

// atRest reports whether nothing more happens without an operator.
func atRest(s fleet.RolloutState) bool { return s.Final() || s == fleet.RolloutPaused }

// exitCode is how a rollout's state ends a command.
func exitCode(v rolloutView) int {
	switch v.State {
	case fleet.RolloutCompleted:
		for _, as := range v.Assignments {
			if as.State.Failure() || as.State == fleet.AssignSkipped {
				return ExitPartial
			}
		}
		return ExitDone
	case fleet.RolloutCancelled, fleet.RolloutSuperseded:
		return ExitCancelled
	case fleet.RolloutFailed, fleet.RolloutPaused, fleet.RolloutReverting, fleet.RolloutRunning, fleet.RolloutScheduled:
		return ExitFailed
	}
	return ExitError
}

// tell shows a change as a line.
func (a *app) tell(begin time.Time, e api.Event) {
	at := fmt.Sprintf("%7.1fs", time.Since(begin).Seconds())
	switch {
	case e.Assignment != nil:
		as := e.Assignment
		a.say("%s  batch %d  %-12s %-16s %s %s", at, as.Batch+1, as.Machine, as.State, as.Reason, oneLine(first(as.Message, as.Why, " ")))
	case e.Batch != nil:
		a.say("%s  batch %d  %s: %d of %d healthy, %d failed  %s", at, e.Batch.Index+1, e.Batch.State, e.Batch.Counts.Healthy, e.Batch.Size, e.Batch.Counts.Failed, e.Batch.Why)
	case e.Rollout != nil:
		a.say("%s  rollout  %s  %s", at, e.Rollout.State, e.Rollout.Why)
	}
}
