// SPDX-License-Identifier: MIT

package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/check"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Systemd is a NixOS machine.
type Systemd struct{}

var _ Supervisor = Systemd{}

// Run runs the switch in a transient unit, so that it outlives the agent.
func (m Systemd) Run(ctx context.Context, s Switch) (Result, error) {
	unit := s.Name + ".service"
	alive := func() bool { return m.active(ctx, unit) }
	_, ended := s.code()
	if !ended && !s.Started() && !alive() {
		if err := m.start(ctx, s); err != nil {
			return Result{}, err
		}
	}
	res, err := s.await(ctx, alive, func() { m.kill(ctx, unit) })
	if err == nil && res.Code != 0 {
		res.Output = m.output(ctx, unit)
	}
	return res, err
}

func (m Systemd) start(ctx context.Context, s Switch) error {
	words, err := s.prepare()
	if err != nil {
		return err
	}
	args := []string{
		"--unit=" + s.Name, "--description=NixFleet: " + s.Program, "--collect", "--no-block", "--quiet", "--no-ask-password", "--service-type=exec",
		"--setenv=PATH=/run/current-system/sw/bin:/run/current-system/sw/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
		"--setenv=NIXOS_NO_CHECK=1", // the agent has compared the inhibitors and chosen boot if they differ
		"/bin/sh",
	}
	if _, err := proc.Run(ctx, proc.Cmd{Path: "systemd-run", Args: append(args, words...), Timeout: 30 * time.Second}); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	return nil
}

// active reports whether the unit runs or is about to.
func (Systemd) active(ctx context.Context, unit string) bool {
	v, err := check.Unit(ctx, unit, "ActiveState", "Job")
	if err != nil {
		return ctx.Err() == nil // systemd does not answer now: assume that it runs, the limit still holds
	}
	switch v["ActiveState"] {
	case "inactive", "failed":
		return v["Job"] != "" && v["Job"] != "0"
	}
	return true
}

func (m Systemd) kill(ctx context.Context, unit string) {
	for _, args := range [][]string{{"kill", "--signal=SIGKILL", unit}, {"stop", unit}} {
		_, _ = proc.Run(ctx, proc.Cmd{Path: "systemctl", Args: args, Timeout: 10 * time.Second}) // it may have ended by itself
	}
}

func (Systemd) output(ctx context.Context, unit string) string {
	res, err := proc.Run(ctx, proc.Cmd{Path: "journalctl", Args: []string{"_SYSTEMD_UNIT=" + unit, "--lines=30", "--output=cat", "--no-pager", "--quiet"}, Timeout: 10 * time.Second, MaxOutput: 32 << 10})
	if err != nil {
		return "its output cannot be read: " + err.Error()
	}
	return strings.TrimSpace(fleet.CleanText(string(res.Stdout), fleet.MaxMessage/2))
}

// FailedUnits lists the failed units of the machine, without switches.
func (Systemd) FailedUnits(ctx context.Context) ([]string, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "systemctl", Args: []string{"list-units", "--failed", "--plain", "--no-legend", "--full", "--no-pager"}, Timeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("list failed units: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(res.Stdout)) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "nixfleet-switch-") {
			out = append(out, f[0])
		}
	}
	slices.Sort(out)
	return out, nil
}

// Successor compares the unit's program with the one that runs.
func (Systemd) Successor(ctx context.Context) (next, mine bool, err error) {
	v, err := check.Unit(ctx, AgentUnit, "MainPID", "ExecStart", "LoadState")
	if err != nil {
		return false, false, err
	}
	if v["LoadState"] != "loaded" || v["MainPID"] != strconv.Itoa(os.Getpid()) {
		return false, false, nil
	}
	_, rest, _ := strings.Cut(v["ExecStart"], "path=")
	path, _, _ := strings.Cut(rest, " ;")
	return !sameProgram(strings.TrimSpace(path)), true, nil
}

// RestartAgent restarts the agent's unit.
func (Systemd) RestartAgent(ctx context.Context) error {
	_, err := proc.Run(ctx, proc.Cmd{Path: "systemctl", Args: []string{"restart", "--no-block", AgentUnit}, Timeout: 30 * time.Second})
	if err != nil {
		return fmt.Errorf("restart %s: %w", AgentUnit, err)
	}
	return nil
}

// Reboot reboots the machine.
func (Systemd) Reboot(ctx context.Context) error {
	if _, err := proc.Run(ctx, proc.Cmd{Path: "systemctl", Args: []string{"reboot", "--no-block"}, Timeout: 30 * time.Second}); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
