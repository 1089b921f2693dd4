// SPDX-License-Identifier: MIT

// Package host acts on the machine: it runs a system's own switch program outside
// the agent, lists failed units, restarts the agent's service, reboots, and reads
// the clocks. There is one Supervisor for systemd and one for launchd.
//
// It never decides whether a switch was good.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Names of the agent's own services, for systemd and for launchd.
const (
	AgentUnit     = "nixfleet-agent.service"
	WatchdogUnit  = "nixfleet-watchdog.service"
	WatchdogTimer = "nixfleet-watchdog.timer"
	AgentLabel    = "org.nixfleet.agent"
	WatchdogLabel = "org.nixfleet.watchdog"
)

// Switch is a system's switch program, to be run once under a name that is never
// used again.
type Switch struct {
	Name    string // of the unit, and of its files in Dir
	Dir     string // where the wrapper leaves its marks
	Program string
	Args    []string
	Limit   time.Duration // from now on; then the switch is killed
}

// Result is how a switch ended.
type Result struct {
	Code     int // its own exit code; -1: it left none
	TimedOut bool
	Output   string // the end of its output, if it failed
}

// Supervisor is what the machine's services run under.
type Supervisor interface {
	// Run starts the switch unless it was started before, and waits for its
	// end. When ctx ends the switch goes on; Run can be called again.
	Run(ctx context.Context, s Switch) (Result, error)
	// FailedUnits lists the services that are failed, sorted.
	FailedUnits(ctx context.Context) ([]string, error)
	// Successor reports whether this process is the agent's service (mine), and
	// whether the service now declares another program (next).
	Successor(ctx context.Context) (next, mine bool, err error)
	// RestartAgent asks for the restart of the agent's service, this process.
	RestartAgent(ctx context.Context) error
	// Reboot asks for a reboot and returns.
	Reboot(ctx context.Context) error
}

// New returns the supervisor of this machine.
func New() Supervisor {
	if runtime.GOOS == "darwin" {
		return Launchd{}
	}
	return Systemd{}
}

// System is the platform of this machine.
func System() fleet.System {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return fleet.System(arch + "-" + runtime.GOOS)
}

// wrapper leaves a mark when the program begins, and its exit code when it has
// ended, each as a whole file. What a service manager reports of a stopped unit
// is not the program's own exit code.
const wrapper = `mark=$1
shift
: > "$mark.started"
"$@"
code=$?
echo "$code" > "$mark.code.tmp" && mv -f "$mark.code.tmp" "$mark.code"
`

// prepare writes the wrapper, and returns the arguments of /bin/sh that run
// the switch in it. The wrapper is a file because service managers expand what
// looks like a variable. A shell that reads the old one is not disturbed.
func (s Switch) prepare() ([]string, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of switches: %w", err)
	}
	file := filepath.Join(s.Dir, s.Name+".sh")
	if err := atomicfile.Write(file, []byte(wrapper), 0o600); err != nil {
		return nil, fmt.Errorf("write wrapper: %w", err)
	}
	return append([]string{file, filepath.Join(s.Dir, s.Name), s.Program}, s.Args...), nil
}

// code reads the exit code, if there is one yet.
func (s Switch) code() (int, bool) {
	b, err := os.ReadFile(filepath.Join(s.Dir, s.Name+".code"))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// Started reports whether the program has begun.
func (s Switch) Started() bool {
	_, err := os.Stat(filepath.Join(s.Dir, s.Name+".started"))
	return err == nil
}

// await waits for the exit code of a switch that has been started. alive says
// whether it still runs; kill ends it.
func (s Switch) await(ctx context.Context, alive func() bool, kill func()) (Result, error) {
	limit := time.NewTimer(max(s.Limit, 0))
	defer limit.Stop()
	look := time.NewTicker(25 * time.Millisecond)
	defer look.Stop()
	asked := time.Now()
	for {
		code, ok := s.code()
		if ok && !alive() {
			return Result{Code: code}, nil
		}
		if !ok && time.Since(asked) > time.Second {
			if asked = time.Now(); !alive() {
				if code, ok = s.code(); ok { // it ended between the two checks
					return Result{Code: code}, nil
				}
				return Result{Code: -1}, nil
			}
		}
		select {
		case <-ctx.Done():
			return Result{}, fmt.Errorf("wait for %s: %w", s.Name, context.Cause(ctx))
		case <-limit.C:
			kill()
			return Result{Code: -1, TimedOut: true}, nil
		case <-look.C:
		}
	}
}

// Sweep removes the marks of switches that have ended.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep marks of switches: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// Free is how many bytes can be written below dir.
func Free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look for room in %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// sameProgram reports whether path leads to the program of this process. A path
// that does not exist does not.
func sameProgram(path string) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	a, errA := filepath.EvalSymlinks(path)
	b, errB := filepath.EvalSymlinks(self)
	return errA == nil && errB == nil && a == b
}
