// SPDX-License-Identifier: MIT

package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Launchd is a nix-darwin machine.
type Launchd struct{}

var _ Supervisor = Launchd{}

// Run runs the activation in a session of its own. The activation reloads the
// agent's service, and launchd then ends everything in the agent's session.
func (m Launchd) Run(ctx context.Context, s Switch) (Result, error) {
	pidFile := filepath.Join(s.Dir, s.Name+".pid")
	logFile := filepath.Join(s.Dir, s.Name+".log")
	if _, ended := s.code(); !ended && !s.Started() {
		if err := m.start(s, pidFile, logFile); err != nil {
			return Result{}, err
		}
	}
	pid := 0
	if b, err := os.ReadFile(pidFile); err == nil {
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	alive := func() bool { return pid > 1 && syscall.Kill(pid, 0) == nil }
	kill := func() { _ = syscall.Kill(-pid, syscall.SIGKILL) }
	res, err := s.await(ctx, alive, kill)
	if err == nil && res.Code != 0 {
		b, _ := os.ReadFile(logFile) // what there is of it
		res.Output = fleet.CleanText(string(b), fleet.MaxMessage/2)
	}
	return res, err
}

func (Launchd) start(s Switch, pidFile, logFile string) error {
	words, err := s.prepare()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	// The switch must outlive an agent that ends while it runs.
	p, err := proc.Start(context.Background(), proc.Cmd{
		Path: "/bin/sh", Args: words, Stdout: log, Stderr: log, Attr: &syscall.SysProcAttr{Setsid: true},
		Env: append(os.Environ(), "PATH=/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	return atomicfile.Write(pidFile, []byte(strconv.Itoa(p.Pid())), 0o600)
}

// FailedUnits lists the services of the system domain that ended with an
// error and have no process.
func (Launchd) FailedUnits(ctx context.Context) ([]string, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "launchctl", Args: []string{"list"}, Timeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("list launchd services: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(res.Stdout)) {
		f := strings.Fields(line) // PID, last exit status, label
		if len(f) == 3 && f[0] == "-" && f[1] != "0" && f[0] != "PID" {
			out = append(out, f[2])
		}
	}
	slices.Sort(out)
	return out, nil
}

// Successor compares the service's program with the one that runs.
func (Launchd) Successor(ctx context.Context) (next, mine bool, err error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "launchctl", Args: []string{"print", "system/" + AgentLabel}, Timeout: 30 * time.Second, MaxOutput: 64 << 10})
	if err != nil {
		return false, false, nil // there is no such service, so this process is not it
	}
	var program, pid string
	for line := range strings.Lines(string(res.Stdout)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " = ")
		switch k {
		case "program":
			program = v
		case "pid":
			pid = v
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return false, false, nil
	}
	return !sameProgram(program), true, nil
}

// RestartAgent restarts the agent's service.
func (Launchd) RestartAgent(ctx context.Context) error {
	if _, err := proc.Run(ctx, proc.Cmd{Path: "launchctl", Args: []string{"kickstart", "-k", "system/" + AgentLabel}, Timeout: 30 * time.Second}); err != nil {
		return fmt.Errorf("restart %s: %w", AgentLabel, err)
	}
	return nil
}

// Reboot reboots the machine.
func (Launchd) Reboot(ctx context.Context) error {
	if _, err := proc.Run(ctx, proc.Cmd{Path: "/sbin/shutdown", Args: []string{"-r", "now"}, Timeout: 30 * time.Second}); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
