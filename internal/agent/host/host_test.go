// SPDX-License-Identifier: MIT

package host

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// program puts a program of the machine's on the path, as a shell script that
// notes how it is called.
func program(t *testing.T, name, script string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\necho \"$*\" >> '" + dir + "/calls'\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, err := os.ReadFile(filepath.Join(dir, "calls"))
		if err != nil {
			return ""
		}
		return string(b)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "switch-to-configuration")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// launchd runs the activation in a session of its own, so Launchd.Run works on
// any Unix.
func TestLaunchd_RunsASwitchOnceAndReadsItsOwnExitCode(t *testing.T) {
	dir := t.TempDir()
	s := Switch{Name: "nixfleet-switch-1", Dir: filepath.Join(dir, "switch"), Limit: 30 * time.Second, Program: script(t, `echo "$@" >> "`+dir+`/ran"; echo activating; exit 4`), Args: []string{"switch"}}
	for range 2 { // asked again, as after a crash, it does not run again
		res, err := Launchd{}.Run(t.Context(), s)
		if err != nil || res.Code != 4 || res.TimedOut || !strings.Contains(res.Output, "activating") {
			t.Fatalf("result = %+v, %v", res, err)
		}
	}
	if b, err := os.ReadFile(dir + "/ran"); err != nil || string(b) != "switch\n" {
		t.Errorf("ran %q, %v", b, err)
	}
	if err := Sweep(s.Dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A02: the switch outlives the agent that began it.
func TestLaunchd_ASwitchOutlivesTheAgentThatBeganIt(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	s := Switch{Name: "s", Dir: filepath.Join(dir, "switch"), Limit: 30 * time.Second, Program: script(t, `while [ ! -e "`+gate+`" ]; do sleep 0.01; done; exit 0`)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !s.Started() && t.Context().Err() == nil {
			runtime.Gosched()
		}
		cancel()
	}()
	if _, err := (Launchd{}).Run(ctx, s); err == nil {
		t.Fatal("no error when the agent ends")
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res, err := (Launchd{}).Run(t.Context(), s); err != nil || res.Code != 0 {
		t.Errorf("the next agent sees %+v, %v", res, err)
	}
}

// A05: what hangs is killed, with all that it started; what was killed left no
// code.
func TestLaunchd_EndsWhatHangsAndTellsWhatWasKilled(t *testing.T) {
	s := Switch{Name: "hang", Dir: t.TempDir(), Limit: 200 * time.Millisecond, Program: script(t, "sleep 600")}
	if res, err := (Launchd{}).Run(t.Context(), s); err != nil || !res.TimedOut || res.Code != -1 {
		t.Errorf("hangs: %+v, %v", res, err)
	}
	s = Switch{Name: "killed", Dir: t.TempDir(), Limit: 30 * time.Second, Program: script(t, "kill -9 0")}
	if res, err := (Launchd{}).Run(t.Context(), s); err != nil || res.TimedOut || res.Code != -1 {
		t.Errorf("killed: %+v, %v", res, err)
	}
}

func TestLaunchd_TellsFailedServicesAndItsSuccessor(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	calls := program(t, "launchctl", `case $1 in
list) printf 'PID\tStatus\tLabel\n-\t0\tcom.apple.fine\n-\t78\torg.bad\n61\t1\torg.again\n-\t-9\torg.also-bad\n' ;;
print) printf 'state = running\n\tprogram = %s\n\tpid = %s\n' "$NEXT" "$MINE" ;;
esac`)
	got, err := Launchd{}.FailedUnits(t.Context())
	if d := cmp.Diff(got, []string{"org.also-bad", "org.bad"}); d != "" || err != nil {
		t.Errorf("%v, -got +want:\n%s", err, d)
	}
	pid := strings.TrimSpace(readPid(t))
	for _, tc := range []struct {
		next, pid  string
		want, mine bool
	}{{self, pid, false, true}, {"/nix/store/other/bin/nixfleet-agent", pid, true, true}, {"/x", "1", false, false}} {
		t.Setenv("NEXT", tc.next)
		t.Setenv("MINE", tc.pid)
		if next, mine, err := (Launchd{}).Successor(t.Context()); err != nil || next != tc.want || mine != tc.mine {
			t.Errorf("%+v: next %t, mine %t, %v", tc, next, mine, err)
		}
	}
	if err := (Launchd{}).RestartAgent(t.Context()); err != nil || !strings.Contains(calls(), "kickstart -k system/org.nixfleet.agent") {
		t.Errorf("calls %q, %v", calls(), err)
	}
}

func readPid(t *testing.T) string {
	t.Helper()
	p, err := os.Readlink("/proc/self")
	if err != nil {
		t.Skip("SKIP: needs /proc")
	}
	return p
}

// A06: a name of its own, collected when it ends, output to the journal and
// never to a pipe.
func TestSystemd_StartsATransientUnitOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	calls := program(t, "systemd-run", `while [ "$1" != /bin/sh ]; do shift; done; exec "$@"`)
	program(t, "systemctl", `echo ActiveState=inactive`)
	program(t, "journalctl", `echo "unit app.service failed"`)
	s := Switch{Name: "nixfleet-switch-7-1", Dir: dir, Limit: 30 * time.Second, Program: script(t, "exit 4"), Args: []string{"switch"}}
	for range 2 {
		res, err := Systemd{}.Run(t.Context(), s)
		if err != nil || res.Code != 4 || res.Output != "unit app.service failed" {
			t.Fatalf("result = %+v, %v", res, err)
		}
	}
	for _, want := range []string{"--unit=nixfleet-switch-7-1 ", " --collect ", " --no-block "} {
		if !strings.Contains(calls(), want) {
			t.Errorf("%q is not in %q", want, calls())
		}
	}
	if strings.Count(calls(), "\n") != 1 || strings.Contains(calls(), "--pipe") {
		t.Errorf("calls: %q", calls())
	}
}

func TestSystemd_ListsFailedUnitsButNoSwitches(t *testing.T) {
	program(t, "systemctl", `printf 'web.service loaded failed failed Web\nnixfleet-switch-1-2.service loaded failed failed x\napp.service loaded failed failed App\n'`)
	got, err := Systemd{}.FailedUnits(t.Context())
	if d := cmp.Diff(got, []string{"app.service", "web.service"}); d != "" || err != nil {
		t.Errorf("%v, -got +want:\n%s", err, d)
	}
}

func TestSystemd_KnowsItsSuccessorByTheUnitsProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program(t, "systemctl", `printf 'MainPID=%s\nExecStart={ path=%s ; argv[]=x run ; ignore_errors=no }\nLoadState=loaded\n' "$MINE" "$NEXT"`)
	link := filepath.Join(t.TempDir(), "agent")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		next, pid  string
		want, mine bool
	}{{self, readPid(t), false, true}, {link, readPid(t), false, true}, {"/nix/store/other/bin/nixfleet-agent", readPid(t), true, true}, {"/x", "1", false, false}} {
		t.Setenv("NEXT", tc.next)
		t.Setenv("MINE", tc.pid)
		if next, mine, err := (Systemd{}).Successor(t.Context()); err != nil || next != tc.want || mine != tc.mine {
			t.Errorf("%+v: next %t, mine %t, %v", tc, next, mine, err)
		}
	}
}

func TestNow_TellsTheBootAndTimeSinceIt(t *testing.T) {
	a, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Now()
	if err != nil || a.BootID == "" || a.BootID != b.BootID || b.Boot < a.Boot || a.WallMs == 0 {
		t.Errorf("%+v, %+v, %v", a, b, err)
	}
}
