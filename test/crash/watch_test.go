// SPDX-License-Identifier: MIT

//go:build linux

package crash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// stateDir is the agent's, on a host.
const stateDir = "/var/lib/nixfleet/agent"

// watch stops every process of a host that is about to open one of the agent's files
// or to execute a program that matters, until the function stop has returned.
type watch struct {
	host *testbed.Host
	fd   int
	file *os.File // the fanotify group; closing it lets every process continue
	name namer
	exec []string // programs of the systems between which the host switches

	// stop is called at each point while the process is stopped there. victim is the
	// process on this machine to kill, 0 if there is none. If it returns true, the
	// watch ends and the process continues, if it was not killed.
	stop func(p point, victim int) bool

	quit chan struct{}
	wait sync.WaitGroup
	mu   sync.Mutex
	over bool // the group is closed
	errs []error
}

// watched are folders; opening one of their files is a point.
var watched = [...]string{stateDir, stateDir + "/outbox", stateDir + "/switch", "/run/nixfleet", "/boot", "/nix/var/nix/profiles"}

// programs whose execution is a point.
var programs = [...]string{"/usr/bin/nix-env", "/usr/bin/systemd-run", "/usr/bin/systemctl"}

func newWatch(h *testbed.Host, exec []string, stop func(point, int) bool) (*watch, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch %s: fanotify: %w", h.Name(), err)
	}
	w := &watch{
		host: h, fd: fd, file: os.NewFile(uintptr(fd), "fanotify"), exec: exec, stop: stop, quit: make(chan struct{}),
		name: namer{journal: filepath.Join(h.Disk(), "up", stateDir, "journal.json"), seen: map[string]int{}, written: map[string]string{}},
	}
	pid := h.PID()
	if err := w.mark(fd, pid); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	w.wait.Go(func() { w.reboots(fd, pid) })
	w.wait.Go(w.run)
	return w, nil
}

// close ends the watch and returns its errors.
func (w *watch) close() error {
	w.end()
	close(w.quit)
	w.wait.Wait()
	return errors.Join(w.errs...)
}

// end lets every process continue.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.over = true
	if err := w.file.Close(); err != nil {
		w.errs = append(w.errs, err)
	}
}

func (w *watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// mark watches the host whose PID 1 is pid. The marks are on what the host
// sees, an overlay: the test can read its upper folder meanwhile.
func (w *watch) mark(fd, pid int) error {
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, dir := range watched {
		err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_ONLYDIR, unix.FAN_OPEN_PERM|unix.FAN_ONDIR|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, root+dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return w.markPrograms(fd, root)
}

func (w *watch) markPrograms(fd int, root string) error {
	for _, p := range append(programs[:], w.exec...) {
		err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, root+p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a target that is not fetched yet
			return fmt.Errorf("watch %s: %w", p, err)
		}
	}
	return nil
}

// reboots marks the host again as soon as it has rebooted, which is well before its
// systemd starts the first service.
func (w *watch) reboots(fd, pid int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
		now := w.host.PID()
		if now == pid || now == 0 {
			continue
		}
		pid = now
		w.mu.Lock()
		if !w.over { // else its file descriptor may belong to another file by now
			if err := w.mark(fd, pid); err != nil && w.host.PID() == pid {
				w.errs = append(w.errs, err)
			}
		}
		w.mu.Unlock()
	}
}

// run answers the kernel until the watch ends.
func (w *watch) run() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.fail(fmt.Errorf("watch %s: %w", w.host.Name(), err))
			}
			return
		}
		for b := buf[:n]; len(b) >= unix.FAN_EVENT_METADATA_LEN; {
			size := binary.NativeEndian.Uint32(b)
			if w.event(binary.NativeEndian.Uint64(b[8:]), int(int32(binary.NativeEndian.Uint32(b[16:]))), int(int32(binary.NativeEndian.Uint32(b[20:])))) {
				return
			}
			b = b[size:]
		}
	}
}

// event answers one event; true ends the watch.
func (w *watch) event(mask uint64, fd, pid int) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	// While this file is open, the host could not shut down properly.
	err = errors.Join(err, unix.Close(fd))
	if err != nil {
		w.fail(fmt.Errorf("watch %s: %w", w.host.Name(), err))
	}
	end := false
	if p, ok := w.name.point(mask&unix.FAN_OPEN_EXEC_PERM != 0, path, pid); ok {
		end = w.stop(p, w.victim())
		if p.Step == states.Arm && !end { // the target has been fetched
			if err := w.markPrograms(w.fd, fmt.Sprintf("/proc/%d/root", w.host.PID())); err != nil {
				w.fail(err)
			}
		}
	}
	if end {
		w.end()
		return true
	}
	var answer [8]byte
	binary.NativeEndian.PutUint32(answer[:], uint32(fd))
	binary.NativeEndian.PutUint32(answer[4:], unix.FAN_ALLOW)
	if _, err := w.file.Write(answer[:]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrClosed) {
		w.fail(fmt.Errorf("watch %s: answer: %w", w.host.Name(), err))
	}
	return false
}

// process is a process according to /proc.
type process struct {
	exe, args string
	parent    int
}

func look(pid int) process {
	dir := fmt.Sprintf("/proc/%d/", pid)
	var p process
	p.exe, _ = os.Readlink(dir + "exe") // stays empty if the process has ended
	args, _ := os.ReadFile(dir + "cmdline")
	p.args = strings.ReplaceAll(string(args), "\x00", " ")
	stat, _ := os.ReadFile(dir + "stat")
	if _, after, ok := strings.Cut(string(stat), ") "); ok {
		if f := strings.Fields(after); len(f) > 1 {
			_, _ = fmt.Sscan(f[1], &p.parent)
		}
	}
	return p
}

// Our programs on a machine.
const (
	agentRole = "agent"
	watchdog  = "watchdog"
)

// role returns which of our programs it is; "" for any other.
func (p process) role() string {
	f := strings.Fields(p.args)
	switch {
	case !strings.HasSuffix(p.exe, "nixfleet-agent") || len(f) < 2:
		return ""
	case f[1] == "run":
		return agentRole
	case f[1] == "watchdog":
		return watchdog
	}
	return ""
}

// victim is the process of ours that reached the last point, if it still runs.
func (w *watch) victim() int {
	if look(w.name.victim).role() == "" {
		return 0
	}
	return w.name.victim
}
