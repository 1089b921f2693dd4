// SPDX-License-Identifier: MIT

package testbed

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// Spec says what a host is at its creation. Only Name is required.
type Spec struct {
	// Name is the host name: lower case letters, digits and "-", up to 63.
	Name string
	// System is the store path of a system in this machine's store, which is
	// installed on the host; empty means a bare systemd without any units.
	System string
	// Binds are folders of the machine that the host shares, writable and at the
	// same path.
	Binds []string
	// Off leaves the host off; Boot turns it on.
	Off bool
}

// Host is one machine of a testbed.
type Host struct {
	tb    *Testbed
	name  string
	addr  netip.Addr
	link  string
	binds []string

	mu      sync.Mutex
	cable   Cable
	power   *proc.Process // the supervisor; nil when off
	pid     int           // of its PID 1, once that has its own root; else 0
	boots   int
	changed chan struct{} // closed at each change of the three above
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Create makes a host and, unless the spec says otherwise, turns it on. It returns
// once its PID 1 runs; Wait waits until it is up.
func (tb *Testbed) Create(ctx context.Context, s Spec) (*Host, error) {
	if !validName.MatchString(s.Name) || s.Name == "hub" || s.Name == "localhost" {
		return nil, fmt.Errorf("create host %q: not a host name", s.Name)
	}
	h := &Host{tb: tb, name: s.Name, cable: CableIn, changed: make(chan struct{})}
	for _, b := range s.Binds {
		abs, err := filepath.Abs(b)
		if err != nil {
			return nil, fmt.Errorf("create host %s: %w", s.Name, err)
		}
		h.binds = append(h.binds, abs)
	}
	if err := tb.add(h); err != nil {
		return nil, fmt.Errorf("create host %s: %w", s.Name, err)
	}
	if err := h.create(ctx, s); err != nil {
		err = fmt.Errorf("create host %s: %w", s.Name, err)
		return nil, errors.Join(err, h.Destroy())
	}
	return h, nil
}

func (h *Host) create(ctx context.Context, s Spec) error {
	args := []string{"--mount", "--propagation", "private", "bash", h.tb.script("create.sh"), h.disk(), h.name}
	if s.System != "" {
		args = append(args, s.System)
	}
	if _, err := proc.Run(ctx, h.tb.inside(proc.Cmd{Path: "unshare", Args: args, Env: nixEnv()})); err != nil {
		return err
	}
	if s.Off {
		return nil
	}
	return h.Boot(ctx)
}

// add gives the host an address and makes its name known.
func (tb *Testbed) add(h *Host) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.ended {
		return errors.New("testbed is destroyed")
	}
	for _, o := range tb.hosts {
		if o.name == h.name {
			return errors.New("exists already")
		}
	}
	h.addr = tb.last.Next()
	if !tb.network.Contains(h.addr.Next()) { // the last one is for broadcasts
		return fmt.Errorf("network %s is full", tb.network)
	}
	tb.last = h.addr
	// A name of an interface has at most 15 bytes, a host's is longer.
	raw := h.addr.AsSlice()
	h.link = fmt.Sprintf("v%x", raw[len(raw)-4:])
	tb.hosts = append(tb.hosts, h)
	return tb.writeNames()
}

// Destroy turns the host off as a power failure would and removes its disk. Its
// address is not used again.
func (h *Host) Destroy() error {
	ctx := context.Background()
	if err := h.Crash(ctx); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.name, err)
	}
	h.tb.mu.Lock()
	defer h.tb.mu.Unlock()
	if h.tb.ended {
		return nil
	}
	if _, err := proc.Run(ctx, h.tb.inside(proc.Cmd{Path: "rm", Args: []string{"-rf", "--one-file-system", h.disk()}})); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.name, err)
	}
	h.tb.hosts = slices.DeleteFunc(slices.Clone(h.tb.hosts), func(o *Host) bool { return o == h })
	return h.tb.writeNames()
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// IP is the host's address, on its interface eth0.
func (h *Host) IP() netip.Addr { return h.addr }

// disk is the path of the host's folder in the keeper's namespace.
func (h *Host) disk() string { return filepath.Join(h.tb.dir, "hosts", h.name) }

// Disk is the folder with the host's disk: its /nix is in "nix", what it has changed
// of the rest in "up" (an overlay's upper folder), also while it is off. Absolute
// links in it are relative to the host's root: ReadFile follows them properly.
func (h *Host) Disk() string {
	if h.tb.onDisk {
		return h.disk()
	}
	return fmt.Sprintf("/proc/%d/root%s", h.tb.keeper.Pid(), h.disk())
}

// Command is c as a program that runs in the host; for proc.Run and proc.Start. Its
// Path is looked up in the host; without an Env it gets the one of a root shell. It
// is outside the control groups of the host's systemd, but dies with the host.
func (h *Host) Command(c proc.Cmd) (proc.Cmd, error) {
	h.mu.Lock()
	pid := h.pid
	h.mu.Unlock()
	if pid == 0 {
		return proc.Cmd{}, fmt.Errorf("run %s on %s: the host is off", c.Path, h.name)
	}
	env := c.Env
	if env == nil {
		env = []string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	args := append([]string{"-C", cmp.Or(c.Dir, "/"), "-i"}, env...)
	args = append(append(args, c.Path), c.Args...)
	c.Path, c.Args, c.Env, c.Dir = "env", args, nil, "/"
	return enter(c, pid, "-m", "-u", "-i", "-n", "-C", "-p"), nil
}

// Exec runs a program in the host and waits for its end, as proc.Run does.
func (h *Host) Exec(ctx context.Context, c proc.Cmd) (proc.Result, error) {
	in, err := h.Command(c)
	if err != nil {
		return proc.Result{ExitCode: -1}, err
	}
	res, err := proc.Run(ctx, in)
	if err != nil {
		var exit *proc.ExitError
		if errors.As(err, &exit) {
			exit.Program, exit.Command = c.Path, c.String()
		}
		return res, fmt.Errorf("on %s: %w", h.name, err)
	}
	return res, nil
}

// Shell is the command line, for root on the machine, that opens a shell in the
// host; it changes when the host reboots. It is empty when the host is off.
func (h *Host) Shell() string {
	c, err := h.Command(proc.Cmd{Path: "bash", Args: []string{"-l"}, Env: []string{"HOME=/root", "TERM=xterm", "PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin"}})
	if err != nil {
		return ""
	}
	return c.String()
}

// Add copies the closures of store paths of this machine into the host's store, past
// any cache and any signature, also while the host is off.
func (h *Host) Add(ctx context.Context, paths ...string) error {
	args := append([]string{"copy", "--no-check-sigs", "--to", "local?root=" + h.disk()}, paths...)
	if _, err := proc.Run(ctx, h.tb.inside(proc.Cmd{Path: "nix", Args: args, Env: nixEnv()})); err != nil {
		return fmt.Errorf("add to store of %s: %w", h.name, err)
	}
	return nil
}

// ReadFile reads a file of the host. If the host is off, it reads only what is on the
// host's own disk, without following links.
func (h *Host) ReadFile(ctx context.Context, path string) ([]byte, error) {
	if h.State() == On {
		res, err := h.Exec(ctx, proc.Cmd{Path: "cat", Args: []string{path}, MaxOutput: 64 << 20})
		if err != nil && strings.Contains(string(res.Stderr), "No such file") {
			err = fmt.Errorf("read %s on %s: %w", path, h.name, fs.ErrNotExist)
		}
		return res.Stdout, err
	}
	return os.ReadFile(h.offPath(path))
}

// WriteFile writes a file of the host, making its folders, also while it is off.
func (h *Host) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	const write = `umask 077; mkdir -p -m 755 "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"`
	c := proc.Cmd{Path: "/bin/sh", Stdin: bytes.NewReader(data)}
	perm := fmt.Sprintf("%o", mode.Perm())
	if h.State() == On {
		c.Args = []string{"-c", write, "write", path, perm}
		_, err := h.Exec(ctx, c)
		return err
	}
	c.Args = []string{"-c", write, "write", h.offPath(path), perm}
	if _, err := proc.Run(ctx, c); err != nil {
		return fmt.Errorf("write %s on %s: %w", path, h.name, err)
	}
	return nil
}

func (h *Host) offPath(path string) string {
	path = filepath.Clean("/" + path)
	if path == "/nix" || strings.HasPrefix(path, "/nix/") {
		return filepath.Join(h.Disk(), path)
	}
	return filepath.Join(h.Disk(), "up", path)
}
