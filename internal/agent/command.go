// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Enroll exchanges a token for this machine's certificate. The token is in
// tokenFile or, if that is empty, in the file that the configuration names. A
// machine that does not know its floor gets the one that came with the token or,
// with anyFloor, one that accepts any release. Enroll returns the machine's id.
func Enroll(ctx context.Context, o Options, tokenFile string, anyFloor bool) (fleet.MachineID, error) {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return "", err
	}
	if tokenFile == "" {
		tokenFile = cfg.Identity.TokenFile
	}
	if tokenFile == "" {
		return "", fleet.Errorf(fleet.Invalid, "no enrolment token").WithHint("make one with nixfleet machine token %s, and name its file: nixfleet-agent enroll --token-file FILE", cfg.MachineID)
	}
	k, err := load(cfg, nix.RootsDir)
	if err != nil {
		return "", err
	}
	j := k.journal
	told := leaveFloor(cfg, func() states.Journal { return j }, o.Log)
	if anyFloor {
		told = leaveAnyFloor(cfg, j)
	}
	return cfg.MachineID, link.Enroll(ctx, cfg, tokenFile, told)
}

// AdoptFloor gives a machine that has lost its state a floor: from then on it
// refuses releases of its line below sequence; 0 accepts any.
func AdoptFloor(o Options, sequence fleet.Sequence) error {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return err
	}
	k, _, err := look(cfg, nix.RootsDir)
	if err != nil {
		return err
	}
	if k.journal.Trust.Floor != nil {
		return fleet.Errorf(fleet.Conflict, "%s has a floor", cfg.MachineID).
			WithHint("to run an older system, make a new release of it: nixfleet release create --from DIGEST")
	}
	f := trust.Floor{}
	if sequence > 0 {
		f.Lines = map[fleet.Line]trust.Mark{cfg.Line: {Line: cfg.Line, Sequence: sequence}}
	}
	return disk.Dir(cfg.StateDir).Floor().Write(f)
}

// AllowRepair lets the agent replace a path that is in use, and that is not as
// signed, when the release that it refused as closure-differs is ordered again.
func AllowRepair(o Options, path fleet.StorePath) error {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return err
	}
	if !path.Valid() {
		return fleet.Errorf(fleet.Invalid, "%q is not a store path", path).
			WithHint("the refusal closure-differs names the path: nixfleet-agent history")
	}
	return disk.Dir(cfg.StateDir).Repairs().Allow(path)
}

// Status is what an agent's files say, whether or not it runs.
type Status struct {
	Machine  fleet.MachineID  `json:"machine"`
	State    fleet.AgentState `json:"state"`
	Step     states.Step      `json:"step"`
	Waiting  string           `json:"waiting,omitempty"`
	Work     *states.Work     `json:"work,omitempty"`
	Current  *states.System   `json:"current,omitempty"`
	LastGood *states.System   `json:"lastGood,omitempty"`
	Staged   *states.System   `json:"staged,omitempty"`
	Drift    bool             `json:"drift"`
	Floor    *trust.Floor     `json:"floor,omitempty"`
	Queued   int              `json:"queuedReports"`
	Rejected disk.SetAside    `json:"rejectedReports"`
	fleet.Generations
}

// ReadStatus reads the state directory.
func ReadStatus(o Options) (Status, error) {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return Status{}, err
	}
	k, _, err := look(cfg, nix.RootsDir)
	if err != nil {
		return Status{}, err
	}
	j := k.journal
	g := machine.NewSnapshot(cfg.MachineID, j, o.Log).Generations()
	s := Status{
		Machine: cfg.MachineID, State: j.Step.State(), Step: j.Step, Waiting: j.Waiting, Work: j.Work, Current: j.Current, LastGood: j.LastGood,
		Staged: j.Staged, Drift: j.Drifted(g.Running), Floor: j.Trust.Floor, Generations: g,
	}
	if s.Queued, err = disk.Dir(cfg.StateDir).Queued(); err != nil {
		return s, err
	}
	s.Rejected, err = disk.Dir(cfg.StateDir).Rejected()
	return s, err
}

// Text writes the status for people.
func (s Status) Text(out io.Writer) error {
	var b strings.Builder
	line := func(name string, v any) { fmt.Fprintf(&b, "%-10s %v\n", name, v) }
	line("machine", s.Machine)
	line("state", s.State)
	if s.Waiting != "" {
		line("waiting", s.Waiting)
	}
	if w := s.Work; w != nil {
		line("work", fmt.Sprintf("%s %s, rollout %s, attempt %d, at %s", w.Order.Kind, w.Order.Digest.Short(), w.Order.Rollout, w.Order.Attempt, s.Step))
	}
	line("running", s.Running)
	line("booted", s.Booted)
	line("next boot", s.BootDefault)
	if c := s.Current; c != nil {
		line("release", fmt.Sprintf("%s %s (%s %d)", c.Digest.Short(), c.Name, c.Line, c.Sequence))
	}
	if c := s.LastGood; c != nil {
		line("last good", fmt.Sprintf("%s %s", c.Digest.Short(), c.Path))
	}
	if s.Drift {
		line("drift", "the machine runs a system that its agent did not activate")
	}
	line("reports", fmt.Sprintf("%d queued", s.Queued))
	if r := s.Rejected; r.Total > 0 {
		line("rejected", fmt.Sprintf("%d reports that the control plane did not take; the newest %d are in outbox/rejected of the state directory", r.Total, r.Kept))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// ReadHistory returns the outcomes on this machine, oldest first.
func ReadHistory(o Options) ([]fleet.Report, error) {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return nil, err
	}
	return disk.Dir(cfg.StateDir).History().List()
}

// HistoryText writes outcomes for people.
func HistoryText(out io.Writer, reports []fleet.Report) error {
	var b strings.Builder
	for _, r := range reports {
		first, _, _ := strings.Cut(r.Message, "\n")
		fmt.Fprintf(&b, "%s  %-13s %-12s %s/%d  %s %s\n", time.UnixMilli(r.At).UTC().Format(time.RFC3339), r.Outcome, r.Digest.Short(), r.Rollout, r.Attempt, r.Reason, first)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
