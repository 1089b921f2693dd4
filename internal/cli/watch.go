// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/timeline"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (a *app) rolloutWatchCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "watch [ROLLOUT]", Short: "Follow a rollout to its end, or until it pauses",
		Long: `Follow a rollout to its end, or until it pauses.

Each change is a line on stderr; the final state of the rollout is printed on stdout. The exit code
is 0 completed, 3 failed, reverted or paused for failures, 4 cancelled or superseded, 5 timed out,
6 completed without some machines.`,
		Example: "  nixfleet rollout watch", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := a.rolloutArg(cmd.Context(), argv)
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, id, timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "stop following after this time")
	return c
}

var errWatchTimeout = errors.New("watch timed out")

// follow prints what happens in a rollout until it ends or pauses. The event
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
		return command.Exit(command.ExitTimeout, fleet.Errorf(fleet.Unavailable, "rollout %s has not ended after %s", id, timeout).
			WithHint("it continues; nixfleet rollout watch follows it again"))
	case err != nil:
		return err
	}
	if err := a.Print(v, func(w io.Writer) { v.text(w) }); err != nil {
		return err
	}
	if code := exitCode(v); code != command.ExitDone {
		return command.Exit(code, nil)
	}
	return nil
}

// awaitEnd prints each change until the rollout has ended or paused. The stream
// begins before the state is read, so that no change is lost between the two. A
// rollout that ended earlier is noticed at the first event.
func (a *app) awaitEnd(ctx context.Context, c *api.Client, id fleet.RolloutID) (rolloutView, error) {
	t := &teller{app: a, begin: time.Now(), last: map[string]string{}}
	for e, err := range c.Watch(ctx, 0, fleet.EventFilter{Rollout: id}) {
		if err != nil {
			return rolloutView{}, err
		}
		t.tell(e)
		begun := e.Rollout == nil && e.Batch == nil && e.Assignment == nil && e.Machine == nil && e.Report == nil && e.Removed == ""
		if !begun && (e.Rollout == nil || !atRest(e.Rollout.State)) {
			continue
		}
		// A paused rollout may have been resumed since; the state decides.
		v, err := viewRollout(ctx, c, id)
		if err != nil || atRest(v.State) {
			return v, err
		}
	}
	return rolloutView{}, context.Cause(ctx)
}

// atRest reports whether nothing more happens without an operator.
func atRest(s fleet.RolloutState) bool { return s.Final() || s == fleet.RolloutPaused }

// exitCode returns the exit code for a rollout's state.
func exitCode(v rolloutView) int {
	switch v.State {
	case fleet.RolloutCompleted:
		for _, as := range v.Assignments {
			if as.State.Failure() || as.State == fleet.AssignSkipped {
				return command.ExitPartial
			}
		}
		return command.ExitDone
	case fleet.RolloutCancelled, fleet.RolloutSuperseded:
		return command.ExitCancelled
	case fleet.RolloutFailed, fleet.RolloutPaused, fleet.RolloutReverting, fleet.RolloutRunning, fleet.RolloutScheduled:
		return command.ExitFailed
	}
	return command.ExitError
}

// teller prints changes as lines. It prints no line twice: a row may change in a
// field that the line does not show.
type teller struct {
	*app
	begin time.Time
	last  map[string]string // line by subject
}

func (t *teller) tell(e api.Event) {
	subject, line := timeline.Line(e)
	if e.Report != nil || line == "" || t.last[subject] == line { // what follows from a report is an event of its own
		return
	}
	t.last[subject] = line
	t.Say("%7.1fs  %s", time.Since(t.begin).Seconds(), line)
}
