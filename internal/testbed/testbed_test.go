// SPDX-License-Identifier: MIT

package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// waitLimit bounds every wait: longer than anything takes on a loaded machine.
const waitLimit = 60 * time.Second

func newBed(t *testing.T) (context.Context, *testbed.Testbed) {
	t.Helper()
	return newBedWith(t, testbed.Config{})
}

func newBedWith(t *testing.T, c testbed.Config) (context.Context, *testbed.Testbed) {
	t.Helper()
	testbed.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*waitLimit)
	t.Cleanup(cancel)
	tb, err := testbed.New(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tb.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return ctx, tb
}

func build(t *testing.T, tb *testbed.Testbed, s testbed.System) string {
	t.Helper()
	path, err := tb.Build(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// machine is a host whose methods fail the test if the host does not do what they
// ask.
type machine struct {
	*testbed.Host
	t   *testing.T
	ctx context.Context
}

func create(ctx context.Context, t *testing.T, tb *testbed.Testbed, s testbed.Spec) machine {
	t.Helper()
	h, err := tb.Create(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	m := machine{h, t, ctx}
	if !s.Off {
		m.up()
	}
	return m
}

func (m machine) up() string {
	m.t.Helper()
	s, err := m.Wait(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// sh returns the trimmed output of a script, and its exit code.
func (m machine) sh(script string) (string, int) {
	m.t.Helper()
	res, err := m.Exec(m.ctx, proc.Cmd{Path: "/bin/sh", Args: []string{"-c", script}, Timeout: waitLimit})
	var exit *proc.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(string(res.Stdout) + string(res.Stderr)), res.ExitCode
}

func (m machine) is(script, want string) {
	m.t.Helper()
	if got, _ := m.sh(script); got != want {
		m.t.Errorf("%s: %s: got %q, want %q", m.Name(), script, got, want)
	}
}

// eventually waits until the script prints want.
func (m machine) eventually(script, want string) {
	m.t.Helper()
	wait := fmt.Sprintf(`for i in $(seq 600); do x=$( (%s) 2> /dev/null); [ "$x" = '%s' ] && break; sleep 0.05; done; echo "$x"`, script, want)
	if got, _ := m.sh(wait); got != want {
		m.t.Errorf("%s: %s: still %q after 30 s, want %q", m.Name(), script, got, want)
	}
}

// add copies a system of the machine into the host's store, without a cache.
func (m machine) add(system string) {
	m.t.Helper()
	if err := m.Add(m.ctx, system); err != nil {
		m.t.Fatal(err)
	}
}

// switchTo runs the system's own switch and returns its exit code.
func (m machine) switchTo(system string) int {
	m.t.Helper()
	m.add(system)
	out, code := m.sh("nix-env -p /nix/var/nix/profiles/system --set " + system + " && /nix/var/nix/profiles/system/bin/switch-to-configuration switch")
	m.t.Logf("switch to %s: %d\n%s", system, code, out)
	return code
}

func (m machine) runs(system string) {
	m.t.Helper()
	m.is("readlink /run/current-system", system)
}

func TestHost_IsARealSystemdOnAReadOnlyUnitFolder(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	bare := create(ctx, t, tb, testbed.Spec{Name: "bare"})
	one := build(t, tb, testbed.System{HostName: "full", Files: map[string]string{"nixfleet/agent.toml": "it = 's'\n\"${x}\"\n"}, Services: map[string]string{
		"by-command": "exec sleep 4000",
		"by-unit":    "[Service]\nExecStart=/bin/sleep 4001\n",
	}})
	full := create(ctx, t, tb, testbed.Spec{Name: "full", System: one})
	for _, m := range []machine{bare, full} {
		m.is("cat /proc/1/comm; hostname; systemctl is-system-running", "systemd\n"+m.Name()+"\nrunning")
		m.is("touch /etc/systemd/system/x /nix/store/x", "touch: cannot touch '/etc/systemd/system/x': Read-only file system\ntouch: cannot touch '/nix/store/x': Read-only file system")
		m.is("echo x > /root/x; nix-store --add /root/x > /dev/null && rm /root/x && ls /root/x", "ls: cannot access '/root/x': No such file or directory")
		m.is("systemctl --failed --no-legend", "")
	}
	full.runs(one)
	full.is("systemctl is-active app by-command by-unit network-setup", "active\nactive\nactive\nactive")
	full.is("cat /etc/nixfleet/agent.toml", "it = 's'\n\"${x}\"")
	full.is("readlink /run/booted-system /nix/var/nix/profiles/system /boot/default; cat /boot/default", one+"\nsystem-1-link\n"+one)
	full.is(`PATH=/run/current-system/sw/bin; for p in nix nix-store nix-env systemctl systemd-run sh env; do command -v $p; done | grep -vc "^/run/current-system/sw/bin/"`, "0")

	// A bare host gets its units with its first switch.
	if code := bare.switchTo(one); code != 0 {
		t.Errorf("first switch: exit code %d", code)
	}
	bare.is("systemctl is-active app by-unit", "active\nactive")
	if _, err := os.Stat("/etc/static"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the machine itself was changed: /etc/static: %v", err)
	}
	if got := full.Shell(); !strings.HasPrefix(got, fmt.Sprintf("nsenter -t %d -m ", full.PID())) {
		t.Errorf("Shell() = %q", got)
	}
}

func TestHost_FilesCanBeReadAndWrittenOnAndOff(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]testbed.Config{"memory": {}, "disk": {OnDisk: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, tb := newBedWith(t, config)
			testFiles(ctx, t, tb)
		})
	}
}

func testFiles(ctx context.Context, t *testing.T, tb *testbed.Testbed) {
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", Off: true})
	check := func(path, text string) {
		t.Helper()
		if err := h.WriteFile(ctx, path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := h.ReadFile(ctx, path); err != nil || string(got) != text {
			t.Errorf("%s on a host that is %s: %q, %v", path, h.State(), got, err)
		}
		if _, err := h.ReadFile(ctx, path+"x"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing file on a host that is %s: error = %v", h.State(), err)
		}
	}
	check("/var/lib/nixfleet/agent/x", "off")
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	check("/var/lib/nixfleet/agent/y", "on")
	h.is("cat /var/lib/nixfleet/agent/?; stat -c %a /var/lib/nixfleet /var/lib/nixfleet/agent/x", "offon755\n600")
	if _, err := h.Exec(ctx, proc.Cmd{Path: "false"}); err == nil || err.Error() != "on web-01: false: exit code 1" {
		t.Errorf("error = %v", err)
	}
	if err := h.Poweroff(ctx); err != nil {
		t.Fatal(err)
	}
	check("/var/lib/nixfleet/agent/y", "off again")
	if b, err := os.ReadFile(h.Disk() + "/up/var/lib/nixfleet/agent/x"); err != nil || string(b) != "off" {
		t.Errorf("on its disk: %q, %v", b, err)
	}
	if _, err := h.Exec(ctx, proc.Cmd{Path: "true"}); err == nil {
		t.Error("a program ran on a host that is off")
	}
}

func TestHost_BootsWhatSwitchOrBootLeft(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one, two := build(t, tb, testbed.System{}), build(t, tb, testbed.System{Generation: "2", Kernel: "2", Params: "quiet"})
	bad := build(t, tb, testbed.System{Generation: "3", Fault: "boot"})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	id := func() string {
		id, err := h.BootID(ctx)
		if err != nil || len(id) != 36 {
			t.Fatalf("boot id %q: %v", id, err)
		}
		return id
	}
	first := id()
	h.add(two)
	h.is("nix-env -p /nix/var/nix/profiles/system --set "+two+"; "+two+"/bin/switch-to-configuration boot; readlink /run/current-system", one)
	h.is("for f in kernel initrd kernel-modules kernel-params; do [ $(readlink -f /run/booted-system/$f) = $(readlink -f "+two+"/$f) ] || echo $f; done", "kernel\ninitrd\nkernel-modules\nkernel-params")
	if err := h.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	h.up()
	h.is("readlink /run/booted-system /run/current-system", two+"\n"+two)
	second := id()
	if err := h.Crash(ctx); err != nil || h.State() != testbed.Off {
		t.Fatalf("after a crash: %s, %v", h.State(), err)
	}
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	h.up()
	h.runs(two)
	if third := id(); first == second || second == third {
		t.Errorf("boot ids %s %s %s", first, second, third)
	}
	if code := h.switchTo(bad); code != 0 {
		t.Errorf("switch to a system that cannot boot: exit code %d", code)
	}
	err := h.Reboot(ctx)
	if err == nil {
		_, err = h.Wait(ctx)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot boot "+bad) {
		t.Errorf("reboot into a system that cannot boot: error = %v", err)
	}
	if h.State() != testbed.Off {
		t.Errorf("it is %s", h.State())
	}
}
