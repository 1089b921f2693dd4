// SPDX-License-Identifier: MIT

package testbed_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/testbed"
)

// A03: the power fails in the middle of a switch. The boot loader's entry is written
// first, so the next boot is the new system although the switch did not finish.
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

// A05, A07: what a switch's exit code shows, and what it does not.
func TestSwitch_ExitCodes(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one := build(t, tb, testbed.System{})
	for _, c := range []struct {
		fault    string
		code     int
		switched bool
		script   string // prints the result
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
			// The old system's own switch restores all of it.
			h.is("systemctl reset-failed", "")
			if code := h.switchTo(one); code != 0 {
				t.Errorf("switch to the old system: exit code %d", code)
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

// A04: /run/current-system changes long before the switch has finished.
func TestSwitch_CurrentSystemChangesBeforeTheEnd(t *testing.T) {
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

// A11: a change that NixOS refuses to switch to can be staged for the next boot.
func TestSwitch_IsRefusedWhenAnInhibitorChanges(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	one := build(t, tb, testbed.System{Inhibitors: map[string]string{"dbus": "1"}})
	two := build(t, tb, testbed.System{Generation: "2", Inhibitors: map[string]string{"dbus": "2"}})
	h := create(ctx, t, tb, testbed.Spec{Name: "web-01", System: one})
	if code := h.switchTo(two); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	h.is("readlink /run/current-system; cat /boot/default", one+"\n"+one)
	h.is(two+"/bin/switch-to-configuration boot; readlink /run/current-system; cat /boot/default", one+"\n"+two)
	h.is("NIXOS_NO_CHECK=1 "+two+"/bin/switch-to-configuration test > /dev/null; readlink /run/current-system", two)
}

// A05, A06: a switch that hangs, a switch that kills its caller, and what they leave.
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
