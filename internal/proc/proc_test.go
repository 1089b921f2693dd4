// SPDX-License-Identifier: MIT

package proc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/internal/proc"
)

func sh(script string, args ...string) proc.Cmd {
	return proc.Cmd{Path: "/bin/sh", Args: append([]string{"-c", script, "sh"}, args...)}
}

func TestRun_ReturnsOutputAndExitCode(t *testing.T) {
	c := sh(`cat; echo "$FOO" >&2; pwd >&2; exit 3`)
	c.Stdin, c.Env, c.Dir = strings.NewReader("in"), []string{"FOO=bar"}, "/"
	res, err := proc.Run(t.Context(), c)
	if got := string(res.Stdout) + "|" + string(res.Stderr); got != "in|bar\n/\n" {
		t.Errorf("output = %q", got)
	}
	var exit *proc.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("error = %v, want an ExitError", err)
	}
	if res.ExitCode != 3 || exit.Code != 3 || proc.ExitCode(fmt.Errorf("wrapped: %w", err)) != 3 {
		t.Errorf("exit codes = %d, %d, %d, want 3", res.ExitCode, exit.Code, proc.ExitCode(err))
	}
	if got, want := err.Error(), "/bin/sh: exit code 3: /"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
}

func TestRun_SaysWhatIsMissing(t *testing.T) {
	_, err := proc.Run(t.Context(), proc.Cmd{Path: "no-such-program"})
	if !errors.Is(err, proc.ErrNotFound) {
		t.Errorf("error = %v, want ErrNotFound", err)
	}
	if _, err := proc.Look("no-such-program"); !errors.Is(err, proc.ErrNotFound) {
		t.Errorf("Look: error = %v, want ErrNotFound", err)
	}
}

func TestRun_KeepsBeginningAndEndOfLongOutput(t *testing.T) {
	for _, n := range []int{0, 1, 99, 100, 101, 149, 150, 1000, 70000} {
		c := sh(`cat`)
		in := make([]byte, n)
		for i := range in {
			in[i] = byte('a' + i%26)
		}
		c.Stdin, c.MaxOutput = bytes.NewReader(in), 100
		res, err := proc.Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		want := string(in)
		if n > 100 {
			want = string(in[:50]) + fmt.Sprintf("\n[... %d bytes left out ...]\n", n-100) + string(in[n-50:])
		}
		if diff := cmp.Diff(string(res.Stdout), want); diff != "" || res.Truncated != (n > 100) {
			t.Errorf("%d bytes: truncated %v, -got +want:\n%s", n, res.Truncated, diff)
		}
	}
}

func TestRun_HandsOutLinesAsTheyAppear(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	c := sh(`printf 'one\r\ntwo\n'; cat "$1"; echo err >&2; printf end`, gate)
	c.Timeout = 30 * time.Second
	c.OnLine = func(s proc.Stream, line string) {
		got = append(got, string(s)+" "+line)
		if line == "two" { // the program goes on only once this line has come
			if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := proc.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout one", "stdout two", "stdout go", "stdout end"}
	rest := got[:0:0]
	errs := 0
	for _, l := range got { // the order of the two streams is not kept
		if l == "stderr err" {
			errs++
		} else {
			rest = append(rest, l)
		}
	}
	if diff := cmp.Diff(rest, want); diff != "" || errs != 1 {
		t.Errorf("%d lines of stderr; -got +want:\n%s", errs, diff)
	}
}

func TestRun_CutsEndlessLines(t *testing.T) {
	var sizes []int
	c := sh(`head -c 150000 /dev/zero | tr '\0' x; echo; echo end`)
	c.OnLine = func(_ proc.Stream, line string) { sizes = append(sizes, len(line)) }
	if _, err := proc.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range sizes {
		sum += n
		if n > 64<<10 {
			t.Errorf("line of %d bytes", n)
		}
	}
	if sum != 150003 {
		t.Errorf("%d bytes in lines %v, want 150003", sum, sizes)
	}
}

// family is a program with a child and a grandchild, all of which ignore SIGTERM;
// each prints its process id.
const family = `trap "" TERM
sh -c 'sh -c "echo \$\$; exec sleep 600" & echo $$; wait' &
echo $$; wait; wait`

// collect makes c hand over its first n lines once they have come.
func collect(c *proc.Cmd, n int) <-chan []string {
	full := make(chan []string, 1)
	var got []string
	c.OnLine = func(_ proc.Stream, line string) {
		if got = append(got, line); len(got) == n {
			full <- got
		}
	}
	return full
}

func checkGone(t *testing.T, pids []string) {
	t.Helper()
	for _, s := range pids {
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		// A grandchild is reaped by init, in its own time: dead is enough.
		deadline := time.Now().Add(10 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Errorf("process %d is still alive", pid)
				break
			}
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

func TestRun_KillsTheWholeGroupWhenContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := sh(family)
	c.Grace = 50 * time.Millisecond
	full := collect(&c, 3)
	p, err := proc.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	pids := <-full
	cancel()
	_, err = p.Wait()
	if !errors.Is(err, context.Canceled) || proc.ExitCode(err) != -1 {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	checkGone(t, pids)
}

func TestRun_KillsTheWholeGroupOnTimeout(t *testing.T) {
	c := sh(family)
	c.Timeout, c.Grace = 300*time.Millisecond, 20*time.Millisecond
	res, err := proc.Run(t.Context(), c)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want DeadlineExceeded", err)
	}
	if got, want := err.Error(), "/bin/sh: timed out after 300ms"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
	checkGone(t, strings.Fields(string(res.Stdout)))
}

func TestRun_TermIsEnoughForAPoliteProgram(t *testing.T) {
	c := sh(`trap "echo bye; exit 7" TERM; echo ready; while :; do sleep 0.01; done`)
	c.Grace = time.Minute
	ready := collect(&c, 1)
	ctx, stop := context.WithCancel(t.Context())
	p, err := proc.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	stop()
	res, err := p.Wait()
	if !errors.Is(err, context.Canceled) || res.ExitCode != 7 || string(res.Stdout) != "ready\nbye\n" {
		t.Errorf("result = %q, code %d, error %v", res.Stdout, res.ExitCode, err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal after the end: %v", err)
	}
}

func TestRun_LeavesNothingBehindAndDoesNotWaitForIt(t *testing.T) {
	start := time.Now()
	res, err := proc.Run(t.Context(), sh(`sleep 600 & echo $!`))
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
	checkGone(t, strings.Fields(string(res.Stdout)))
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestRun_SendsStreamsToWriters(t *testing.T) {
	var out bytes.Buffer
	file, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := sh(`echo out; echo err >&2`)
	c.Stdout, c.Stderr = &out, file
	res, err := proc.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != "out\n" || string(text) != "err\n" || len(res.Stdout)+len(res.Stderr) != 0 {
		t.Errorf("writer %q, file %q, result %q %q", &out, text, res.Stdout, res.Stderr)
	}
	c.Stdout = fullDisk{}
	if _, err := proc.Run(t.Context(), c); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writer that fails: error = %v, want ENOSPC", err)
	}
}

func TestExitError_KeepsTheEndOfStandardErrorAndNamesTheSignal(t *testing.T) {
	_, err := proc.Run(t.Context(), sh(`seq 5000 >&2; printf 'last \377' >&2; kill -9 $$`))
	var exit *proc.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("error = %v, want an ExitError", err)
	}
	if exit.Signal != syscall.SIGKILL || exit.Code != -1 || len(exit.Stderr) > 4100 || !strings.HasSuffix(exit.Stderr, "5000\nlast \uFFFD") {
		t.Errorf("signal %v, code %d, %d bytes of stderr ending in %q", exit.Signal, exit.Code, len(exit.Stderr), exit.Stderr[max(0, len(exit.Stderr)-20):])
	}
	if got, want := err.Error(), "/bin/sh: ended by signal: killed: last \uFFFD"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
}

func TestCmd_StringCanBePasted(t *testing.T) {
	c := proc.Cmd{Path: "nix", Args: []string{"copy", "it's", "", "a=b"}}
	if got, want := c.String(), `nix copy 'it'\''s' '' a=b`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
