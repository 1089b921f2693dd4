// SPDX-License-Identifier: MIT

package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// State says whether a host is on.
type State string

// The states of a host.
const (
	Off     State = "off"
	Booting State = "booting" // its PID 1 has no root of its own yet, or it reboots
	On      State = "on"
)

// Cable is the state of a host's cable: in, out, or a rate that limits what the host
// receives, in the notation of tc: "8mbit".
type Cable string

// The two states of a cable without a limit.
const (
	CableIn  Cable = "in"
	CableOut Cable = "out"
)

// pollTime is the time between two questions to a systemd that is not up yet.
const pollTime = 20 * time.Millisecond

// State is the host's state at this moment.
func (h *Host) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.power == nil:
		return Off
	case h.pid == 0:
		return Booting
	}
	return On
}

// update changes the fields about power and wakes every caller of until.
func (h *Host) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

// until waits until the condition, which is called with h.mu held, is true.
func (h *Host) until(ctx context.Context, what string, condition func() (bool, error)) error {
	for {
		h.mu.Lock()
		ok, err := condition()
		changed := h.changed
		h.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s %s: %w", h.name, what, context.Cause(ctx))
		}
	}
}

func (h *Host) waitOff(ctx context.Context) error {
	return h.until(ctx, "is off", func() (bool, error) { return h.power == nil, nil })
}

// Boot turns the host on and returns once its PID 1 runs.
func (h *Host) Boot(ctx context.Context) error {
	if err := h.turnOn(ctx); err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	return h.until(ctx, "is on", func() (bool, error) {
		if h.power == nil {
			return false, fmt.Errorf("boot %s: it is off again: %s", h.name, h.consoleTail())
		}
		return h.pid != 0, nil
	})
}

func (h *Host) turnOn(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.power != nil {
		return errors.New("it is on")
	}
	console, err := os.OpenFile(h.consolePath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	defer console.Close()
	events, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer w.Close()
	tb := h.tb
	address := netip.PrefixFrom(h.addr, tb.network.Bits()).String()
	args := []string{"--net", "--mount", "--propagation", "private", "bash", tb.script("supervise.sh"), tb.dir, tb.id, h.name, address, h.link, string(h.cable)}
	c := tb.inside(proc.Cmd{Path: "unshare", Args: append(args, h.binds...)})
	c.Dir, c.Stdout, c.Stderr, c.ExtraFiles = "/", console, console, []*os.File{w}
	// The host outlives the call that turned it on.
	h.power, err = proc.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		events.Close()
		h.power = nil
		return err
	}
	go h.follow(h.power, events)
	return nil
}

// follow updates the host's state from what its supervisor reports.
func (h *Host) follow(p *proc.Process, events *os.File) {
	defer events.Close()
	for lines := bufio.NewScanner(events); lines.Scan(); {
		event, _, _ := strings.Cut(lines.Text(), " ")
		h.tb.log.Debug("host", "host", h.name, "event", lines.Text())
		pid := 0
		if event == "ready" {
			pid = initPid(p.Pid())
		}
		h.update(func() {
			h.pid = pid
			if pid != 0 {
				h.boots++
			}
		})
	}
	_, err := p.Wait()
	h.tb.log.Debug("host is off", "host", h.name, "error", err)
	h.update(func() { h.power, h.pid = nil, 0 })
}

// initPid finds, among the descendants of a process, the one that is PID 1 in a
// namespace of its own; 0 when there is none any more.
func initPid(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
			return pid
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	for _, f := range strings.Fields(string(children)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			return 0
		}
		if found := initPid(child); found != 0 {
			return found
		}
	}
	return 0
}

// Wait waits until systemd has finished booting and returns its state: "running", or
// "degraded" if a unit has failed. It fails at once if the host is off.
func (h *Host) Wait(ctx context.Context) (string, error) {
	for {
		if h.State() == Off {
			return "", fmt.Errorf("wait for %s: it is off: %s", h.name, h.consoleTail())
		}
		res, err := h.Exec(ctx, proc.Cmd{Path: "systemctl", Args: []string{"is-system-running", "--wait"}})
		switch s := string(bytes.TrimSpace(res.Stdout)); s {
		case "running", "degraded":
			return s, nil
		}
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-time.After(pollTime):
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w (last: %v)", h.name, context.Cause(ctx), err)
		}
	}
}

// ask tells the host's systemd to do something that ends it. It asks again if systemd
// does not answer, as in the first moments of a boot.
func (h *Host) ask(ctx context.Context, verb string) error {
	var boots int
	err := h.until(ctx, "is on", func() (bool, error) {
		boots = h.boots
		return h.pid != 0 || h.power == nil, nil
	})
	if err != nil {
		return err
	}
	for {
		_, err = h.Exec(ctx, proc.Cmd{Path: "systemctl", Args: []string{verb}})
		h.mu.Lock()
		changed, done := h.changed, err == nil || h.power == nil || h.pid == 0 || h.boots > boots
		h.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-time.After(pollTime):
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s %s: %w (last: %v)", verb, h.name, context.Cause(ctx), err)
		}
	}
}

// Reboot reboots the host properly and returns once its new PID 1 runs. Wait tells
// whether the boot succeeds.
func (h *Host) Reboot(ctx context.Context) error {
	h.mu.Lock()
	before, off := h.boots, h.power == nil
	h.mu.Unlock()
	if off {
		return fmt.Errorf("reboot %s: it is off", h.name)
	}
	if err := h.ask(ctx, "reboot"); err != nil {
		return err
	}
	return h.until(ctx, "has rebooted", func() (bool, error) {
		if h.power == nil {
			return false, fmt.Errorf("reboot %s: it stays off: %s", h.name, h.consoleTail())
		}
		return h.boots > before && h.pid != 0, nil
	})
}

// Poweroff shuts the host down properly and returns once it is off.
func (h *Host) Poweroff(ctx context.Context) error {
	if h.State() == Off {
		return nil
	}
	if err := h.ask(ctx, "poweroff"); err != nil {
		return err
	}
	return h.waitOff(ctx)
}

// Crash cuts the power: nothing in the host runs any more. Writes that were not
// synced survive nevertheless, since the machine's kernel has them.
func (h *Host) Crash(ctx context.Context) error {
	h.mu.Lock()
	p, pid := h.power, h.pid
	h.mu.Unlock()
	if p == nil {
		return nil
	}
	var err error
	if pid != 0 {
		err = syscall.Kill(pid, syscall.SIGKILL)
	} else {
		err = p.Signal(syscall.SIGKILL)
	}
	if err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("crash %s: %w", h.name, err)
	}
	return h.waitOff(ctx)
}

// Cable unplugs the host's cable, plugs it in or limits its rate. This lasts over
// reboots.
func (h *Host) Cable(ctx context.Context, state Cable) error {
	// A host gets its cable while it boots.
	if err := h.until(ctx, "has a cable", func() (bool, error) { return h.power == nil || h.pid != 0, nil }); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cable = state
	if h.power == nil {
		return nil
	}
	c := h.tb.HubCommand(proc.Cmd{Path: "bash", Args: []string{h.tb.script("cable.sh"), h.link, string(state)}})
	if _, err := proc.Run(ctx, c); err != nil {
		return fmt.Errorf("set cable of %s to %s: %w", h.name, state, err)
	}
	return nil
}

// BootID returns the host's boot id, which differs at each boot.
func (h *Host) BootID(ctx context.Context) (string, error) {
	b, err := h.ReadFile(ctx, "/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

// PID returns the process id, on the machine, of the host's PID 1; 0 if it is not
// on.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pid
}

func (h *Host) consolePath() string { return filepath.Join(h.tb.dir, "console-"+h.name) }

// consoleTail returns the last lines of the host's console, for messages.
func (h *Host) consoleTail() string {
	b, err := os.ReadFile(h.consolePath())
	if err != nil {
		return "no console"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
