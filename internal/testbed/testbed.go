// SPDX-License-Identifier: MIT

// Package testbed makes NixOS-like hosts on one Linux machine, for the demo and the
// tests: each is a set of namespaces over a copy-on-write overlay of the machine's
// own root, with a /nix, an address and a disk of its own, and a real systemd as
// PID 1. Their network leads only to the hub, where control plane and binary cache
// are. See DESIGN.md.
//
// It never changes the machine outside its own folder, never needs a network and
// never outlives the program that made it, however that program ends.
package testbed

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

const (
	defaultDir = "/var/tmp"
	prefix     = "nixfleet-testbed-"
	lockName   = "lock"
	// endTime bounds how long the keeper may take to remove everything.
	endTime = 60 * time.Second
)

//go:embed script
var scripts embed.FS

//go:embed system
var system embed.FS

// SystemNix has system.nix, a function that makes small NixOS-like systems without
// Nixpkgs, and the scripts that it needs; os.CopyFS writes it into a folder.
func SystemNix() fs.FS {
	sub, err := fs.Sub(system, "system")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Config says how a testbed is made. The zero value is valid.
type Config struct {
	// Dir holds the testbeds, each in a folder of its own; empty means /var/tmp. All
	// users must be able to read it, as they can read a machine's root.
	Dir string
	// OnDisk keeps the hosts' disks in Dir. Without it they are in memory, which is
	// several times faster where a file system is slow to sync.
	OnDisk bool
	// Log gets what happens, at debug level; nil means no log.
	Log *slog.Logger
	// Network has the addresses of the hub (the first) and the hosts; zero means
	// 10.77.0.0/16. Other testbeds may have the same: no network of a testbed is
	// connected with another, or with the machine's.
	Network netip.Prefix
}

// Testbed is a hub and the hosts around it.
type Testbed struct {
	dir     string
	id      string
	log     *slog.Logger
	network netip.Prefix
	keeper  *proc.Process
	alive   *os.File // the keeper ends when its other end is closed
	lock    *os.File
	netns   *os.File
	onDisk  bool

	mu    sync.Mutex
	hosts []*Host
	last  netip.Addr
	ended bool
}

// New makes a testbed with an empty network. It first removes what testbeds whose
// programs were killed have left in the same folder. The context bounds only the
// making: a testbed exists until Destroy or the end of the program.
func New(ctx context.Context, c Config) (*Testbed, error) {
	if lacks := Missing(ctx); len(lacks) > 0 {
		return nil, &MissingError{Lacks: lacks}
	}
	if c.Dir == "" {
		c.Dir = defaultDir
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !c.Network.IsValid() {
		c.Network = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, 0}), 16)
	}
	tb := &Testbed{log: c.Log, onDisk: c.OnDisk, network: c.Network.Masked()}
	tb.last = tb.HubAddr()
	if err := tb.claim(ctx, c.Dir); err != nil {
		return nil, err
	}
	if err := tb.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start testbed: %w", err), tb.Destroy())
	}
	tb.log.Debug("testbed made", "dir", tb.dir, "network", tb.network)
	return tb, nil
}

// claim makes the testbed's folder and locks it. The lock of the parent keeps
// another testbed from sweeping a folder that is made but not yet locked.
func (tb *Testbed) claim(ctx context.Context, parent string) error {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make testbed folder: %w", err)
	}
	parent, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return fmt.Errorf("find testbed folder: %w", err)
	}
	all, err := os.Open(parent)
	if err != nil {
		return fmt.Errorf("open testbed folder: %w", err)
	}
	defer all.Close()
	if err = syscall.Flock(int(all.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock testbed folder: %w", err)
	}
	if err = sweep(ctx, parent, tb.log); err != nil {
		return err
	}
	if tb.dir, err = os.MkdirTemp(parent, prefix); err != nil {
		return fmt.Errorf("make testbed folder: %w", err)
	}
	tb.id = filepath.Base(tb.dir)
	if err = os.Chmod(tb.dir, 0o755); err != nil {
		return fmt.Errorf("open up testbed folder: %w", err)
	}
	if tb.lock, err = lockFolder(tb.dir); err != nil {
		return err
	}
	for _, files := range []fs.FS{scripts, system} {
		if err := os.CopyFS(tb.dir, files); err != nil {
			return fmt.Errorf("write scripts: %w", err)
		}
	}
	return nil
}

// lockFolder returns an error that is syscall.EWOULDBLOCK if the folder is locked.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// sweep removes testbeds that no program and no keeper holds any more.
func sweep(ctx context.Context, parent string, log *slog.Logger) error {
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return fmt.Errorf("list testbeds: %w", err)
	}
	for _, dir := range dirs {
		if !ours(dir) {
			continue
		}
		lock, err := lockFolder(dir)
		if err != nil {
			continue // in use, or removed a moment ago
		}
		err = sweepOne(ctx, dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
		log.Debug("old testbed cleared away", "dir", dir)
	}
	return nil
}

// ours reports whether this user made the folder: any user can make a link of such
// a name in /var/tmp.
func ours(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

func sweepOne(ctx context.Context, dir string) error {
	script, err := fs.ReadFile(scripts, "script/sweep.sh")
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	_, err = proc.Run(ctx, proc.Cmd{
		Path:    "unshare",
		Args:    []string{"--mount", "--propagation", "private", "bash", "-c", string(script), "sweep.sh", dir, filepath.Base(dir)},
		Timeout: endTime,
	})
	return err
}

// start starts the keeper and waits until it has made the hub.
func (tb *Testbed) start(ctx context.Context) error {
	if err := tb.writeNames(); err != nil {
		return err
	}
	stdin, alive, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer stdin.Close()
	tb.alive = alive
	disks := "memory"
	if tb.onDisk {
		disks = "folder"
	}
	ready := make(chan struct{})
	tb.keeper, err = proc.Start(context.WithoutCancel(ctx), proc.Cmd{
		Path:       "bash",
		Args:       []string{filepath.Join(tb.dir, "script/keeper.sh"), tb.dir, tb.id, netip.PrefixFrom(tb.HubAddr(), tb.network.Bits()).String(), disks},
		Dir:        "/",
		Stdin:      stdin,
		ExtraFiles: []*os.File{tb.lock},
		Attr:       keeperAttr(),
		OnLine: func(_ proc.Stream, line string) {
			if line == "ready" {
				close(ready)
			}
		},
	})
	if err != nil {
		return err
	}
	select {
	case <-ready:
	case <-tb.keeper.Done():
		_, err = tb.keeper.Wait()
		return fmt.Errorf("keeper ended: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if tb.netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", tb.keeper.Pid())); err != nil {
		return fmt.Errorf("open network of the hub: %w", err)
	}
	return nil
}

// Destroy ends all hosts and everything that runs in the hub, and removes the
// testbed's folder. It takes no context, since it must work after one has ended, and
// well under a second. A second call does nothing.
func (tb *Testbed) Destroy() error {
	tb.mu.Lock()
	ended, hosts := tb.ended, tb.hosts
	tb.ended, tb.hosts = true, nil
	tb.mu.Unlock()
	if ended {
		return nil
	}
	var errs []error
	if tb.alive != nil {
		tb.alive.Close()
	}
	if tb.keeper != nil {
		t := time.NewTimer(endTime)
		defer t.Stop()
		select {
		case <-tb.keeper.Done():
		case <-t.C:
			errs = append(errs, tb.keeper.Signal(syscall.SIGKILL))
		}
		if res, err := tb.keeper.Wait(); err != nil || len(res.Stderr) > 0 {
			tb.log.Debug("keeper ended", "error", err, "stderr", string(res.Stderr))
		}
	}
	for _, h := range hosts {
		errs = append(errs, h.waitOff(context.Background()))
	}
	if tb.netns != nil {
		tb.netns.Close()
	}
	if _, err := os.Stat(tb.dir); err == nil && tb.dir != "" { // the keeper could not
		errs = append(errs, sweepOne(context.Background(), tb.dir))
	}
	if tb.lock != nil {
		tb.lock.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy testbed: %w", err)
	}
	tb.log.Debug("testbed destroyed", "dir", tb.dir)
	return nil
}

// Dir is the testbed's folder.
func (tb *Testbed) Dir() string { return tb.dir }

// Hosts returns the hosts that exist, in the order in which they were made.
func (tb *Testbed) Hosts() []*Host {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return append([]*Host(nil), tb.hosts...)
}

// writeNames writes /etc/hosts of all hosts. It does not replace the file, which is
// mounted there.
func (tb *Testbed) writeNames() error {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n%s hub\n", tb.HubAddr())
	for _, h := range tb.hosts {
		fmt.Fprintf(&b, "%s %s\n", h.addr, h.name)
	}
	file := filepath.Join(tb.dir, "hosts.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write names: %w", err)
	}
	if err := os.Chmod(file, 0o644); err != nil { // whatever the umask is
		return fmt.Errorf("open up names: %w", err)
	}
	return nil
}

// inside runs the command in the keeper's mount and PID namespaces, which contain
// the hosts' disks and the testbed's control groups.
func (tb *Testbed) inside(c proc.Cmd) proc.Cmd {
	return enter(c, tb.keeper.Pid(), "-m", "-p")
}

func (tb *Testbed) script(name string) string { return filepath.Join(tb.dir, "script", name) }

// enter runs the command in some of the namespaces of a process.
func enter(c proc.Cmd, pid int, which ...string) proc.Cmd {
	args := append([]string{"-t", fmt.Sprint(pid)}, which...)
	args = append(args, "--", c.Path)
	c.Path, c.Args = "nsenter", append(args, c.Args...)
	return c
}
