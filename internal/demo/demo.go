// SPDX-License-Identifier: MIT

// Package demo is `nixfleet demo`: a control plane, a signed binary cache and a
// fleet of machines with a real systemd, on this machine and without virtual
// machines, that go through releases good and bad. It uses the programs as an
// operator would, and says of each machine what it really runs, read from the
// machine itself.
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
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// Config says how to run the demo.
type Config struct {
	Out  io.Writer // the story, a line at a time
	Bin  string    // folder with nixfleet, nixfleet-agent and nixfleet-control-plane
	Keep bool      // leave everything running until the context ends
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
	Running    fleet.StorePath  `json:"running"` // as /run/current-system on it says
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

// Refusal is what a machine would not do.
type Refusal struct {
	Machine fleet.MachineID `json:"machine"`
	Reason  fleet.Reason    `json:"reason"`
}

// story is one run.
type story struct {
	Config
	begin time.Time
	res   Result

	tb    *testbed.Testbed
	cache *testbed.Cache
	dir   string // the operator's folder: flake, keys, credentials
	cp    *proc.Process
	env   []string
	stops []func() error // what ends when the demo ends, last first

	mu     sync.Mutex // of hosts, which are made in parallel
	hosts  map[fleet.MachineID]*testbed.Host
	expect map[fleet.MachineID]fleet.StorePath
	drvs   []string // derivations and sources to remove from the store again
}

// Programs are the files that Bin must have.
var programs = [...]string{"nixfleet", "nixfleet-agent", "nixfleet-control-plane"}

// Run tells the story. The result is complete up to where an error happened.
// Whatever happens, and also when the context ends, all that was made is gone
// when Run returns.
func Run(ctx context.Context, c Config) (res Result, err error) {
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(c.Bin, p)); err != nil {
			return Result{}, fleet.Errorf(fleet.NotFound, "the program %s is not beside this one, in %s", p, c.Bin).WithHint("make build makes it")
		}
	}
	if lacks := testbed.Missing(ctx); len(lacks) > 0 {
		return Result{}, fleet.Errorf(fleet.Unavailable, "%s", &testbed.MissingError{Lacks: lacks}).
			WithHint("make demo installs what Debian has")
	}
	s := &story{
		Config: c, begin: time.Now(),
		hosts: map[fleet.MachineID]*testbed.Host{}, expect: map[fleet.MachineID]fleet.StorePath{},
		res: Result{Machines: []Machine{}, Releases: []Release{}, Rollouts: []Rollout{}, Refusals: []Refusal{}},
	}
	defer func() {
		if cerr := s.clean(context.WithoutCancel(ctx)); cerr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", cerr))
		}
		s.res.DurationMs = time.Since(s.begin).Milliseconds()
		s.res.OK = err == nil
		res = s.res
	}()
	if err := s.tell(ctx); err != nil {
		return s.res, err
	}
	if c.Keep {
		s.lookAround()
		<-ctx.Done()
	}
	return s.res, nil
}

// say tells the user what happens, with the time since the beginning.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.Out, "%5.1fs  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, args...))
}

// more adds a line to what was said.
func (s *story) more(format string, args ...any) {
	fmt.Fprintf(s.Out, "        %s\n", fmt.Sprintf(format, args...))
}

// clean ends and removes everything, in the reverse order of its making.
func (s *story) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	errs = append(errs, s.sweepStore(ctx))
	return errors.Join(errs...)
}
