// SPDX-License-Identifier: MIT

// Package demo is `nixfleet demo`: a control plane, a signed binary cache and a
// fleet of machines with a real systemd, on this machine and without virtual
// machines, and releases good and bad. It uses the programs as an operator would,
// and reads from each machine what it really runs.
//
// It never touches the machine's own system, and leaves nothing behind.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// Config says how to run the demo.
type Config struct {
	Out  io.Writer // the story, a line at a time
	Bin  string    // folder with nixfleet, nixfleet-agent and nixfleet-control-plane
	Keep bool      // leave everything running until the context ends
	// Report is the file for a report of the run, as HTML; empty: none.
	Report string
}

// Result is what `demo --json` prints.
type Result struct {
	Machines      []Machine `json:"machines"`
	Releases      []Release `json:"releases"`
	Rollouts      []Rollout `json:"rollouts"`
	Refusals      []Refusal `json:"refusals"`
	AuditVerified bool      `json:"auditVerified"`
	DurationMs    int64     `json:"durationMs"`
	OK            bool      `json:"ok"`
}

// Machine is a machine at the end of the story.
type Machine struct {
	ID         fleet.MachineID  `json:"id"`
	Expected   fleet.StorePath  `json:"expected"`
	Running    fleet.StorePath  `json:"running"` // where its /run/current-system leads
	AgentState fleet.AgentState `json:"agentState"`
}

// Release is a release that was made.
type Release struct {
	Name   string       `json:"name"`
	Digest fleet.Digest `json:"digest"`
}

// Rollout is a rollout as it ended.
type Rollout struct {
	Name       string                `json:"name"`
	State      fleet.RolloutState    `json:"state"`
	DurationMs int64                 `json:"durationMs"`
	Outcomes   map[fleet.Outcome]int `json:"outcomes"`
}

// Refusal is a machine that refused the tampered release.
type Refusal struct {
	Machine fleet.MachineID `json:"machine"`
	Reason  fleet.Reason    `json:"reason"`
}

// story is one run.
type story struct {
	*Scene
	out   io.Writer
	begin time.Time
	res   Result
	ended []ended // rollouts, for the report

	mu sync.Mutex // of out: faults are reported while a rollout is followed
}

// programs are the files that Bin must have.
var programs = [...]string{"nixfleet", "nixfleet-agent", "nixfleet-control-plane"}

// Run runs the demo. The result is complete up to the error, if there is one.
// When Run returns, also because the context ended, everything that it made is
// removed.
func Run(ctx context.Context, c Config) (res Result, err error) {
	for _, p := range programs {
		if _, err = os.Stat(filepath.Join(c.Bin, p)); err != nil {
			return Result{}, fleet.Errorf(fleet.NotFound, "the program %s is not in %s, beside this one", p, c.Bin).WithHint("make build builds it")
		}
	}
	if lacks := testbed.Missing(ctx); len(lacks) > 0 {
		return Result{}, fleet.Errorf(fleet.Unavailable, "%s", &testbed.MissingError{Lacks: lacks}).
			WithHint("make demo installs it on Debian")
	}
	s := &story{
		out: c.Out, begin: time.Now(),
		res: Result{Machines: []Machine{}, Releases: []Release{}, Rollouts: []Rollout{}, Refusals: []Refusal{}},
	}
	defer func() {
		if s.Scene != nil {
			if cerr := s.Clean(context.WithoutCancel(ctx)); cerr != nil {
				err = errors.Join(err, fmt.Errorf("clean up: %w", cerr))
			}
		}
		s.res.DurationMs = time.Since(s.begin).Milliseconds()
		s.res.OK = err == nil
		if c.Report != "" {
			if rerr := writeReport(c.Report, s.res, s.ended); rerr != nil {
				err, s.res.OK = errors.Join(err, rerr), false
			}
		}
		res = s.res
	}()
	s.say("the operator makes the fleet's keys; a control plane starts, with TLS and an embedded SQLite database")
	if s.Scene, err = NewScene(ctx, c.Bin, cast); err != nil {
		return s.res, err
	}
	if err := s.tell(ctx); err != nil {
		return s.res, err
	}
	if c.Keep {
		s.lookAround()
		<-ctx.Done()
	}
	return s.res, nil
}

// cast are the machines of the story.
var cast = []Actor{
	{ID: "web-01", Tags: []fleet.Tag{"web"}},
	{ID: "web-02", Tags: []fleet.Tag{"web"}},
	{ID: "web-03", Tags: []fleet.Tag{"web"}},
	{ID: "db-01", Tags: []fleet.Tag{"db"}},
	{ID: "mon-01", Tags: []fleet.Tag{"monitoring"}, Reboot: "if-needed"},
	{ID: "cache-01", Tags: []fleet.Tag{"cache"}},
}

// say prints what happens, with the time since the beginning.
func (s *story) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%5.1fs  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, args...))
}

// more prints another line about it.
func (s *story) more(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "        %s\n", fmt.Sprintf(format, args...))
}
