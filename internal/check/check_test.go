// SPDX-License-Identifier: MIT

package check

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
)

// declare adds what a valid check must have.
func declare(c fleet.HealthCheck) fleet.HealthCheck {
	c.Name, c.IntervalSeconds, c.TimeoutSeconds, c.Successes, c.Required = "app", 1, 5, max(c.Successes, 1), true
	return c
}

// program puts a shell script onto the path in place of one of the machine's
// programs.
func program(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func probe(t *testing.T, c fleet.HealthCheck, wantOK bool, wantSeen string) {
	t.Helper()
	var p Prober
	if ok, seen := p.Probe(t.Context(), c); ok != wantOK || !strings.Contains(seen, wantSeen) {
		t.Errorf("probe = %t, %q; want %t, %q", ok, seen, wantOK, wantSeen)
	}
}

func TestProbe_HTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "database is away")
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	get := func(path string, status int) fleet.HealthCheck {
		return declare(fleet.HealthCheck{Kind: fleet.HealthCheckHTTP, URL: srv.URL + path, ExpectStatus: status})
	}
	probe(t, get("/", 0), true, "answered 200")
	probe(t, get("/sick", 0), false, "503 in")
	probe(t, get("/sick", 0), false, "database is away")
	probe(t, get("/sick", 503), true, "503")
	probe(t, get("/", 204), false, "want 204")
	probe(t, get("/moved", 302), true, "302")
	slow := get("/slow", 0)
	slow.TimeoutSeconds = 0.05
	probe(t, slow, false, "no answer within 0.05 s")
	srv.Close()
	probe(t, get("/", 0), false, "connection refused")
}

func TestProbe_TCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := declare(fleet.HealthCheck{Kind: fleet.HealthCheckTCP, Address: l.Addr().String()})
	probe(t, c, true, "accepts connections")
	l.Close()
	probe(t, c, false, "connection refused")
}

// A08: a command that hangs is killed, with all that it started.
func TestProbe_Command(t *testing.T) {
	sh := func(script string) fleet.HealthCheck {
		return declare(fleet.HealthCheck{Kind: fleet.HealthCheckCommand, Command: []string{"/bin/sh", "-c", script}})
	}
	probe(t, sh("echo fine"), true, "exited 0: fine")
	probe(t, sh("echo no disk >&2; exit 3"), false, "exited 3: no disk")
	probe(t, sh("kill -9 $$"), false, "killed")
	hang := sh("sleep 600 & sleep 600")
	hang.TimeoutSeconds = 0.1
	begin := time.Now()
	probe(t, hang, false, "no answer within 0.1 s")
	if d := time.Since(begin); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
	probe(t, declare(fleet.HealthCheck{Kind: fleet.HealthCheckCommand, Command: []string{"/does/not/exist"}}), false, "no such file")
}

func TestProbe_Unit(t *testing.T) {
	dir := t.TempDir()
	program(t, "systemctl", `cat "`+dir+`/answer"`)
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := declare(fleet.HealthCheck{Kind: fleet.HealthCheckUnit, Unit: "app.service"})
	for _, tc := range []struct {
		text string
		ok   bool
		seen string
	}{
		{"LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nNRestarts=0\n", true, "unit app.service is active (running)"},
		{"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\n", false, "activating (auto-restart), result exit-code"},
		{"LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\n", false, "failed (failed), result exit-code"},
		{"LoadState=not-found\nActiveState=inactive\n", false, "does not exist"},
	} {
		say(tc.text)
		probe(t, c, tc.ok, tc.seen)
	}
	// A unit that restarts again and again is active at many probes.
	var p Prober
	for i, want := range []bool{true, false, true} {
		n := []int{3, 5, 5}[i]
		say(fmt.Sprintf("LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nNRestarts=%d\n", n))
		if ok, seen := p.Probe(t.Context(), c); ok != want {
			t.Errorf("probe %d: %t, %q", i, ok, seen)
		}
	}
}

func TestProbe_LaunchdNeedsAProcess(t *testing.T) {
	program(t, "launchctl", `case $2 in system/up) printf 'state = running\n\tpid = 71\n' ;; system/down) printf 'state = not running\n' ;; *) exit 113 ;; esac`)
	of := func(label string) fleet.HealthCheck {
		return declare(fleet.HealthCheck{Kind: fleet.HealthCheckLaunchd, Label: label})
	}
	probe(t, of("up"), true, "process 71")
	probe(t, of("down"), false, "no process")
	probe(t, of("gone"), false, "exit code 113")
}

// A15: what a probe observes is cut to its limit, whatever the bytes are.
func TestProbe_CutsWhatItObserved(t *testing.T) {
	var p Prober
	_, seen := p.Probe(t.Context(), declare(fleet.HealthCheck{Kind: fleet.HealthCheckCommand, Command: []string{"/bin/sh", "-c", `head -c 100000 /dev/urandom; exit 1`}}))
	if len(seen) > fleet.MaxObserved {
		t.Errorf("%d bytes", len(seen))
	}
}

// A08: neither an early nor a single bad probe causes a rollback.
func TestTracker_ToleratesRetriesAndTheStartPeriod(t *testing.T) {
	c := declare(fleet.HealthCheck{Kind: fleet.HealthCheckTCP, Retries: 2, StartPeriodSeconds: 10, Successes: 2})
	for _, tc := range []struct {
		name   string
		probes string // + good, - bad, one each second
		want   fleet.HealthCheckStatus
	}{
		{"not probed", "", fleet.HealthCheckPending},
		{"bad in the start period", "---------", fleet.HealthCheckPending},
		{"one good probe", "---+", fleet.HealthCheckPending},
		{"enough good probes", "---++", fleet.HealthCheckPassing},
		{"passed, then bad in the start period", "++--", fleet.HealthCheckPending},
		{"passed, then bad too often", "++---", fleet.HealthCheckFailing},
		{"bad after the start period", "----------" + "--", fleet.HealthCheckPending},
		{"bad too often after it", "----------" + "---", fleet.HealthCheckFailing},
		{"good again", "++---++", fleet.HealthCheckPassing},
		{"a good probe between", "++--+--", fleet.HealthCheckPending},
	} {
		tr := NewTracker(c)
		for i, l := range tc.probes {
			tr.Add(Observation{OK: l == '+', Observed: "seen", Since: float64(i)})
		}
		if got := tr.Result().Status; got != tc.want {
			t.Errorf("%s (%s): %s, want %s", tc.name, tc.probes, got, tc.want)
		}
	}
}

func TestTracker_PassesOnlyAfterGoodProbesAndFailsOnlyAfterBadOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := declare(fleet.HealthCheck{Retries: rapid.IntRange(0, 4).Draw(t, "retries"), Successes: rapid.IntRange(1, 4).Draw(t, "successes"), StartPeriodSeconds: float64(rapid.IntRange(0, 8).Draw(t, "start"))})
		tr := NewTracker(c)
		good, bad := 0, 0
		before := fleet.HealthCheckPending
		for i, ok := range rapid.SliceOfN(rapid.Bool(), 0, 40).Draw(t, "probes") {
			if ok {
				good, bad = good+1, 0
			} else {
				good, bad = 0, bad+1
			}
			r := tr.Add(Observation{OK: ok, Since: float64(i)})
			switch {
			case r.Status == fleet.HealthCheckPassing && good < c.Successes:
				t.Fatalf("passing after %d good probes of %d", good, c.Successes)
			case r.Status == fleet.HealthCheckFailing && good >= c.Successes, r.Status == fleet.HealthCheckFailing && before != fleet.HealthCheckFailing && bad <= c.Retries:
				t.Fatalf("failing after %d bad probes, %d are tolerated", bad, c.Retries)
			case bad > c.Retries+int(c.StartPeriodSeconds)+1 && r.Status != fleet.HealthCheckFailing:
				t.Fatalf("%s after %d bad probes", r.Status, bad)
			}
			before = r.Status
		}
	})
}

func TestRunner_ProbesEachCheckAtItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probes := map[string]int{}
		fast, slow := declare(fleet.HealthCheck{Kind: fleet.HealthCheckTCP}), declare(fleet.HealthCheck{Kind: fleet.HealthCheckTCP})
		slow.Name, slow.IntervalSeconds = "slow", 5
		gate := make(chan struct{}, 1)
		r := Runner{Checks: []fleet.HealthCheck{fast, slow}, Probe: func(_ context.Context, c fleet.HealthCheck) (bool, string) {
			gate <- struct{}{}
			probes[c.Name]++
			<-gate
			return c.Name == "app", "seen"
		}}
		var last []fleet.HealthCheckResult
		r.OnChange = func(v []fleet.HealthCheckResult) { last = v }
		ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer cancel()
		r.Run(ctx)
		if probes["app"] != 11 || probes["slow"] != 3 {
			t.Errorf("probes = %v, want 11 and 3 in 10.5 s", probes)
		}
		if len(last) != 2 || last[0].Status != fleet.HealthCheckPassing || last[1].Status != fleet.HealthCheckFailing {
			t.Errorf("results = %+v", last)
		}
	})
}
