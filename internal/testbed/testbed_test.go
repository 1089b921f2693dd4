// SPDX-License-Identifier: MIT

package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// patience bounds every wait: longer than anything takes on a busy machine.
const patience = 60 * time.Second

func newBed(t *testing.T) (context.Context, *testbed.Testbed) {
	t.Helper()
	testbed.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	tb, err := testbed.New(ctx, testbed.Config{})
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

// machine is a host under test: what it is asked to do must work.
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
	res, err := m.Exec(m.ctx, proc.Cmd{Path: "/bin/sh", Args: []string{"-c", script}, Timeout: patience})
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

// eventually waits until the script prints what is wanted.
func (m machine) eventually(script, want string) {
	m.t.Helper()
	wait := fmt.Sprintf(`for i in $(seq 600); do x=$( (%s) 2> /dev/null); [ "$x" = '%s' ] && break; sleep 0.05; done; echo "$x"`, script, want)
	if got, _ := m.sh(wait); got != want {
		m.t.Errorf("%s: %s: still %q after 30 s, want %q", m.Name(), script, got, want)
	}
}

// add brings a system of the machine into the host's store, past any cache.
func (m machine) add(system string) {
	m.t.Helper()
	_, err := proc.Run(m.ctx, proc.Cmd{Path: "nix", Args: []string{"--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", "local?root=" + m.Disk(), system}})
	if err != nil {
		m.t.Fatal(err)
	}
}

// switchTo returns the exit code of the system's own switch.
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
	ctx, tb := newBed(t)
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

// A03: the power fails in the middle of a switch. The boot loader's entry is written
// first, so the next boot is the new system, though the switch never got to it.
func TestSwitch_PowerFailsInTheMiddle(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	slow := func(n string) map[string]string {
		return map[string]string{"slow": "[Service]\nExecStart=/bin/sleep 100" + n + "\nExecStop=/bin/sleep 3600\nTimeoutStopSec=infinity\n"}
	}
	one, two := build(t, tb, testbed.System{Services: slow("1")}), build(t, tb, testbed.System{Generation: "2", Services: slow("2")})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	h.add(two)
	h.is("systemd-run -q --unit=switch "+two+"/bin/switch-to-configuration switch", "")
	h.eventually("systemctl show -p ActiveState --value slow", "deactivating")
	h.runs(one)
	if err := h.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	h.up()
	h.runs(two)
}

// A05, A07: what a switch's exit code tells and what it does not.
func TestSwitch_ExitCodes(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one := build(t, tb, testbed.System{})
	for _, c := range []struct {
		fault    string
		code     int
		switched bool
		script   string // what comes of it
		want     string
	}{
		{"activation", 2, false, "systemctl is-active app", "active"},
		{"unit", 4, true, "systemctl is-active app", "failed"},
		{"unhealthy", 0, true, "systemctl is-active app", "failed"},
		{"flapping", 0, true, "[ $(systemctl show -p NRestarts --value app) -ge 1 ] && echo restarts", "restarts"},
		{"network", 0, true, "ip -o link show eth0 | grep -c 'state UP'", "0"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			h := create(ctx, t, tb, testbed.Spec{Name: c.fault, System: one})
			bad := build(t, tb, testbed.System{Generation: "2", Fault: c.fault})
			if code := h.switchTo(bad); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if c.switched {
				h.runs(bad)
			} else {
				h.runs(one)
			}
			h.eventually(c.script, c.want)
			// The old system's own switch brings all of it back.
			h.is("systemctl reset-failed", "")
			if code := h.switchTo(one); code != 0 {
				t.Errorf("back: exit code %d", code)
			}
			h.runs(one)
			h.eventually("systemctl is-active app", "active")
			h.is("ip -o link show eth0 | grep -c 'state UP'", "1")
		})
	}
	t.Run("unit of somebody else", func(t *testing.T) {
		t.Parallel()
		h := create(ctx, t, tb, testbed.Spec{Name: "other", System: one})
		h.is("systemd-run -q --unit=other --wait false", "")
		if code := h.switchTo(build(t, tb, testbed.System{Generation: "2"})); code != 4 {
			t.Errorf("exit code %d with another failed unit on the host, want 4", code)
		}
		h.is("systemctl reset-failed", "")
		if code := h.switchTo(one); code != 0 {
			t.Errorf("exit code %d once it is reset, want 0", code)
		}
	})
}

// A04: /run/current-system flips long before the switch is done.
func TestSwitch_CurrentSystemIsNoSignOfCompletion(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one := build(t, tb, testbed.System{})
	two := build(t, tb, testbed.System{Generation: "2", Services: map[string]string{
		"slow": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.02; done'\n",
	}})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	h.add(two)
	h.is("systemd-run -q --unit=switch --remain-after-exit "+two+"/bin/switch-to-configuration switch", "")
	h.eventually("systemctl show -p ActiveState --value slow", "activating")
	h.runs(two)
	h.is("systemctl show -p SubState --value switch", "running")
	h.is(two+"/bin/switch-to-configuration switch", "Could not acquire lock")
	h.is("touch /run/go", "")
	h.eventually("systemctl show -p SubState --value switch", "exited")
	h.is("systemctl show -p ExecMainStatus --value switch", "0")
}

// A05, A06: a hanging switch, a switch that kills its caller, and what they leave behind.
func TestSwitch_InATransientUnit(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one := build(t, tb, testbed.System{})
	killer, hang := build(t, tb, testbed.System{Generation: "2", Fault: "killer"}), build(t, tb, testbed.System{Generation: "3", Fault: "hang"})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	h.add(killer)
	h.add(hang)

	if out, code := h.sh("systemd-run -q --wait --collect --unit=killed " + killer + "/bin/switch-to-configuration test"); code != 0 {
		t.Errorf("a switch ended by SIGTERM, seen by systemd-run --wait: %d %s, want success", code, out)
	}
	h.runs(one)

	h.is("systemd-run -q --unit=hanging -p RuntimeMaxSec=1 "+hang+"/bin/switch-to-configuration test", "")
	h.eventually("systemctl show -p Result --value hanging", "timeout")
	h.runs(one)
	if out, code := h.sh("systemd-run -q --unit=hanging true"); code == 0 || !strings.Contains(out, "already loaded") {
		t.Errorf("the name of a failed unit: %d %s, want it to be taken", code, out)
	}
	if out, code := h.sh("systemd-run -q --wait --collect --unit=hanging-2 true"); code != 0 {
		t.Errorf("another name: %d %s", code, out)
	}
}

func TestSwitch_LeavesTheAgentAloneAndRunsTheWatchdog(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	agent := func(name string) string {
		path := filepath.Join(t.TempDir(), name)
		script := "#!/bin/sh\n# " + name + "\ncase $1 in run) exec sleep 1000 ;; *) echo \"$@\" >> /run/watched ;; esac\n"
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := map[string]string{"nixfleet/agent.toml": "x = 1\n"}
	one := build(t, tb, testbed.System{Agent: agent("one"), Files: config})
	two := build(t, tb, testbed.System{Generation: "2", Agent: agent("two"), Files: config})
	bad := build(t, tb, testbed.System{Generation: "3", Agent: agent("two"), Files: config, Fault: "agent-crash"})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	h.eventually("tail -n 1 /run/watched", "watchdog --config /etc/nixfleet/agent.toml")
	const pid = "systemctl show -p MainPID --value nixfleet-agent"
	before, _ := h.sh(pid)
	if code := h.switchTo(two); code != 0 {
		t.Errorf("exit code %d", code)
	}
	h.is(pid, before)
	h.is("truncate -s 0 /run/watched", "")
	h.eventually("head -n 1 /run/watched", "watchdog --config /etc/nixfleet/agent.toml")
	h.is("command -v nixfleet-agent", "/run/current-system/sw/bin/nixfleet-agent")

	if code := h.switchTo(bad); code != 0 {
		t.Errorf("exit code %d", code)
	}
	h.is(pid, before)
	h.is("kill "+before, "")
	h.eventually("[ $(systemctl show -p NRestarts --value nixfleet-agent) -ge 3 ] && echo crashes", "crashes")
}

func TestDestroy_LeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	a := create(ctx, t, tb, testbed.Spec{Name: "a"})
	b, err := tb.Create(ctx, testbed.Spec{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tb.Create(ctx, testbed.Spec{Name: "a"}); err == nil {
		t.Error("a second host of the same name was made")
	}
	if _, err := tb.Create(ctx, testbed.Spec{Name: "../x"}); err == nil {
		t.Error("a host with a path for a name was made")
	}
	pids := []int{a.PID(), b.PID()}
	if err := b.Destroy(); err != nil {
		t.Error(err)
	}
	if hosts := tb.Hosts(); len(hosts) != 1 || hosts[0].Name() != "a" {
		t.Errorf("hosts: %v", hosts)
	}
	// Its place can be taken again.
	create(ctx, t, tb, testbed.Spec{Name: "b"})
	if err := tb.Destroy(); err != nil {
		t.Error(err)
	}
	checkNothing(t, tb.Dir(), pids)
	if err := tb.Destroy(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if a.State() != testbed.Off {
		t.Errorf("a is %s", a.State())
	}
}

// checkNothing waits until folder, processes and control groups are gone.
func checkNothing(t *testing.T, dir string, pids []int) {
	t.Helper()
	wait := func(what string, there func() bool) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(patience); there(); <-tick.C {
			if time.Now().After(deadline) {
				t.Errorf("%s is still there", what)
				return
			}
		}
	}
	for _, pid := range pids {
		wait(fmt.Sprint("process ", pid), func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && !strings.Contains(string(stat), ") Z ") // init reaps in its own time
		})
	}
	wait(dir, func() bool { _, err := os.Lstat(dir); return err == nil })
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Lstat(filepath.Join(root, filepath.Base(dir))); err == nil {
			t.Errorf("control group %s is still there", filepath.Base(dir))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), filepath.Base(dir)) {
		t.Errorf("something is still mounted in %s (%v)", dir, err)
	}
}

// ownerEnv makes the test binary a program that has a testbed and does nothing more.
const ownerEnv = "TESTBED_TEST_OWNER"

func TestMain(m *testing.M) {
	parent := os.Getenv(ownerEnv)
	if parent == "" {
		os.Exit(m.Run())
	}
	tb, err := testbed.New(context.Background(), testbed.Config{Dir: parent})
	if err == nil {
		var h *testbed.Host
		if h, err = tb.Create(context.Background(), testbed.Spec{Name: "a"}); err == nil {
			fmt.Println(tb.Dir(), h.PID())
			select {}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestTestbed_EndsWithItsProgramHoweverThatEnds(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(owner *proc.Process, keeper int) error{
		"interrupt": func(owner *proc.Process, _ int) error { return owner.Signal(syscall.SIGINT) },
		"kill":      func(owner *proc.Process, _ int) error { return owner.Signal(syscall.SIGKILL) },
		"kill of program and keeper": func(owner *proc.Process, keeper int) error {
			return errors.Join(owner.Signal(syscall.SIGSTOP), syscall.Kill(keeper, syscall.SIGKILL), owner.Signal(syscall.SIGKILL))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testbed.Require(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			parent, err := os.MkdirTemp("/var/tmp", "testbed-test-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(parent)
			said := make(chan string, 1)
			owner, err := proc.Start(t.Context(), proc.Cmd{Path: self, Env: append(os.Environ(), ownerEnv+"="+parent), OnLine: func(_ proc.Stream, line string) { said <- line }})
			if err != nil {
				t.Fatal(err)
			}
			dir, number, ok := strings.Cut(<-said, " ")
			pid, err := strconv.Atoi(number)
			if !ok || err != nil {
				t.Fatalf("no testbed: %s %s", dir, number)
			}
			keeper := keeperOf(t, owner.Pid())
			if err := kill(owner, keeper); err != nil {
				t.Fatal(err)
			}
			<-owner.Done()
			if strings.HasSuffix(name, "keeper") {
				// The kernel ends the processes; the next testbed does the rest.
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("folder is gone already: %v", err)
				}
				next, err := testbed.New(t.Context(), testbed.Config{Dir: parent})
				if err != nil {
					t.Fatal(err)
				}
				defer next.Destroy()
			}
			checkNothing(t, dir, []int{pid, keeper})
		})
	}
}

// keeperOf is the only child of a program that owns a testbed.
func keeperOf(t *testing.T, owner int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", owner))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(children)) {
			line, err := os.ReadFile("/proc/" + f + "/cmdline")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(line), "keeper.sh") {
				pid, err := strconv.Atoi(f)
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
	t.Fatal("no keeper")
	return 0
}

func TestMissing_NamesProgramsAndRemedies(t *testing.T) {
	testbed.Require(t)
	t.Setenv("PATH", t.TempDir())
	var found bool
	for _, l := range testbed.Missing(t.Context()) {
		found = found || l.String() == "the program ip (on Debian: apt-get install iproute2)"
	}
	if !found {
		t.Errorf("Missing() = %v", testbed.Missing(t.Context()))
	}
	var missing *testbed.MissingError
	if _, err := testbed.New(t.Context(), testbed.Config{}); !errors.As(err, &missing) {
		t.Errorf("New: error = %v, want a MissingError", err)
	}
}
