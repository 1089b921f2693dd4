// SPDX-License-Identifier: MIT

package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

func TestDestroy_LeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	a := create(ctx, t, tb, testbed.Spec{Name: "a"})
	b, err := tb.Create(ctx, testbed.Spec{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = tb.Create(ctx, testbed.Spec{Name: "a"}); err == nil {
		t.Error("a second host of the same name was made")
	}
	if _, err = tb.Create(ctx, testbed.Spec{Name: "../x"}); err == nil {
		t.Error("a host with a path for a name was made")
	}
	pids := []int{a.PID(), b.PID()}
	if err = b.Destroy(); err != nil {
		t.Error(err)
	}
	if hosts := tb.Hosts(); len(hosts) != 1 || hosts[0].Name() != "a" {
		t.Errorf("hosts: %v", hosts)
	}
	// Its name can be used again.
	create(ctx, t, tb, testbed.Spec{Name: "b"})
	hub, err := proc.Start(ctx, tb.HubCommand(proc.Cmd{Path: "sleep", Args: []string{"infinity"}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.Destroy(); err != nil {
		t.Error(err)
	}
	var exit *proc.ExitError
	if _, err := hub.Wait(); !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL {
		t.Errorf("program in the hub: %v, want it to be killed", err)
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
		for deadline := time.Now().Add(waitLimit); there(); <-tick.C {
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

const (
	// ownerEnv makes the test binary a program that has a testbed and does nothing more.
	ownerEnv = "TESTBED_TEST_OWNER"
	// serverEnv makes it a program that serves a folder at port 8000: a host has no other.
	serverEnv = "TESTBED_TEST_SERVER"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		fmt.Println(http.ListenAndServe(":8000", http.FileServer(http.Dir(dir))))
		os.Exit(1)
	}
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

func TestTestbed_EndsWithItsProgramHoweverItEnds(t *testing.T) {
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
