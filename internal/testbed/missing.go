// SPDX-License-Identifier: MIT

package testbed

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// Lack is something that a testbed needs and this machine does not have.
type Lack struct {
	What   string // "root", "overlayfs", "program ip"
	Remedy string // what to do about it, as a sentence or a command
}

// String is one line for people.
func (l Lack) String() string { return l.What + " (" + l.Remedy + ")" }

// MissingError is New's error on a machine that cannot run a testbed.
type MissingError struct{ Lacks []Lack }

// Error names everything that is missing, in one line.
func (e *MissingError) Error() string {
	var all []string
	for _, l := range e.Lacks {
		all = append(all, l.String())
	}
	return "a testbed needs " + strings.Join(all, "; ")
}

// Missing lists what this machine lacks for a testbed; empty when all is there.
func Missing(ctx context.Context) []Lack {
	if !onLinux {
		return []Lack{{"Linux", "use a Linux machine or a virtual one"}}
	}
	if os.Geteuid() != 0 {
		return []Lack{{"root", "run it as root, for example with sudo"}}
	}
	var lacks []Lack
	packages := [][2]string{
		{"bash", "bash"}, {"unshare", "util-linux"}, {"nsenter", "util-linux"}, {"mountpoint", "util-linux"}, {"flock", "util-linux"},
		{"ip", "iproute2"}, {"tc", "iproute2"}, {"systemctl", "systemd"}, {"dbus-daemon", "dbus"}, {"nix", "nix-bin"}, {"nix-build", "nix-bin"},
		{"pgrep", "procps"}, {"find", "findutils"}, {"zstd", "zstd"},
	}
	for _, p := range packages {
		if _, err := proc.Look(p[0]); err != nil {
			lacks = append(lacks, Lack{"the program " + p[0], "on Debian: apt-get install " + p[1]})
		}
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		lacks = append(lacks, Lack{"/lib/systemd/systemd", "on Debian: apt-get install systemd"})
	}
	if len(lacks) > 0 {
		return lacks
	}
	return missingInKernel(ctx)
}

// probe tries each thing in new namespaces, which end with it.
const probe = `mount -t tmpfs probe /tmp && mkdir /tmp/up /tmp/work /tmp/root /tmp/cg || { echo tmpfs; exit; }
mount -t overlay overlay -o index=off,lowerdir=/,upperdir=/tmp/up,workdir=/tmp/work /tmp/root || echo overlayfs
mount -t cgroup2 cgroup2 /tmp/cg && [ -e /proc/self/task/$$/children ] || echo cgroup2
ip link add probe0 type bridge || echo bridge
ip link add probe1 type veth peer name probe2 || echo veth
exit 0`

func missingInKernel(ctx context.Context) []Lack {
	res, err := proc.Run(ctx, proc.Cmd{
		Path:    "unshare",
		Args:    []string{"--mount", "--net", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup", "--mount-proc", "--propagation", "private", "bash", "-c", probe},
		Timeout: 20 * time.Second,
	})
	if err != nil {
		return []Lack{{"the right to make namespaces", fmt.Sprintf("run it outside of a container, or in a privileged one: %v", err)}}
	}
	remedies := map[string]string{
		"tmpfs":     "mounting must be allowed",
		"overlayfs": "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
		"cgroup2":   "a kernel with CONFIG_CGROUPS and CONFIG_PROC_CHILDREN, 5.14 or newer",
		"bridge":    "modprobe bridge, or a kernel with CONFIG_BRIDGE",
		"veth":      "modprobe veth, or a kernel with CONFIG_VETH",
	}
	var lacks []Lack
	for _, what := range strings.Fields(string(res.Stdout)) {
		lacks = append(lacks, Lack{what, remedies[what]})
	}
	return lacks
}

// TB is what this package needs of a *testing.T.
type TB interface {
	Helper()
	Context() context.Context
	Setenv(key, value string)
	TempDir() string
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// RequireEnv is the environment variable that, when not empty, makes Require and
// RequireNix fail where they would skip: for a CI machine that must be able to run everything.
const RequireEnv = "NIXFLEET_REQUIRE_TESTBED"

// Require skips the test, naming what is missing and its remedies, when this
// machine cannot run a testbed.
func Require(t TB) {
	t.Helper()
	if lacks := Missing(t.Context()); len(lacks) > 0 {
		unmet(t, &MissingError{Lacks: lacks})
	}
}

// unmet ends a test that cannot run here.
func unmet(t TB, err error) {
	t.Helper()
	if os.Getenv(RequireEnv) != "" {
		t.Fatalf("%v", err)
	}
	t.Skipf("SKIPPED, NOT TESTED: %v", err)
}
