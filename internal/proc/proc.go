// SPDX-License-Identifier: MIT

// Package proc runs other programs: it is the only package that may use os/exec.
// Every program gets a process group of its own and a bound on the output that is
// kept. When its context or its time ends, the whole group gets SIGTERM, then
// SIGKILL. Processes that a program leaves in its group when it exits are killed
// too, so that nothing outlives the call that started it.
//
// It never uses a shell, never retries, never logs.
package proc

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	defaultMaxOutput = 1 << 20
	defaultGrace     = 5 * time.Second
	// drainTime is how long to wait for output after the end of the program, when a
	// process that left the group still holds the pipe.
	drainTime = 500 * time.Millisecond
)

// ErrNotFound is wrapped by the errors of Look, Run and Start when there is no such
// program.
var ErrNotFound = exec.ErrNotFound

// Stream says where a line of output came from.
type Stream string

// The two streams of a program.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Cmd is a program to run. Only Path is required.
type Cmd struct {
	Path string   // a path, or a name that is looked up in PATH
	Args []string // without the program's own name
	Env  []string // whole environment as KEY=VALUE; nil means that of this process
	Dir  string   // working directory; empty means that of this process

	Stdin  io.Reader // nil means /dev/null
	Stdout io.Writer // when set, gets standard output instead of Result.Stdout and OnLine
	Stderr io.Writer // likewise for standard error

	// Timeout bounds the run; zero means no bound but the context's.
	Timeout time.Duration
	// Grace is the time between SIGTERM and SIGKILL; zero means 5 s.
	Grace time.Duration
	// MaxOutput is the number of bytes kept of each stream, half from its
	// beginning and half from its end; zero means 1 MiB.
	MaxOutput int
	// OnLine is called for each line of output as it appears, without its line
	// end and cut at 64 KiB; never two calls at the same time.
	OnLine func(stream Stream, line string)

	// ExtraFiles become the program's file descriptors 3, 4, ...
	ExtraFiles []*os.File
	// Attr sets what else the operating system offers: namespaces, control group,
	// credentials. The program always gets a process group, unless Setsid is set.
	Attr *syscall.SysProcAttr
}

// String is the command line as one would type it, for messages.
func (c Cmd) String() string {
	words := []string{quote(c.Path)}
	for _, a := range c.Args {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ")
}

func quote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Result is how a program ended.
type Result struct {
	Stdout    []byte
	Stderr    []byte
	ExitCode  int  // -1 when a signal ended it
	Truncated bool // some output was left out in the middle of Stdout or Stderr
	Duration  time.Duration
}

// Run starts the program and waits for its end. It returns an *ExitError when the
// program ended with another code than 0, by a signal, or because the context or
// the timeout ended it; the result then has the output up to that moment.
func Run(ctx context.Context, c Cmd) (Result, error) {
	p, err := Start(ctx, c)
	if err != nil {
		return Result{ExitCode: -1}, err
	}
	return p.Wait()
}

// Look finds a program in PATH. The error wraps ErrNotFound when there is none.
func Look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", name, err)
	}
	return path, nil
}

// Process is a program that was started by Start.
type Process struct {
	cmd    Cmd
	exec   *exec.Cmd
	begin  time.Time
	out    *capture
	err    *capture
	done   chan struct{}
	result Result
	fault  error
}

// Start starts the program and returns at once. The context governs the program's
// life as it does for Run: when it ends, the program is stopped.
func Start(ctx context.Context, c Cmd) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p := &Process{cmd: c, done: make(chan struct{})}
	p.exec = exec.Command(c.Path, c.Args...)
	p.exec.Env, p.exec.Dir, p.exec.Stdin, p.exec.ExtraFiles = c.Env, c.Dir, c.Stdin, c.ExtraFiles
	p.exec.WaitDelay = drainTime // for a Stdin that blocks
	p.exec.SysProcAttr = &syscall.SysProcAttr{}
	if c.Attr != nil {
		attr := *c.Attr
		p.exec.SysProcAttr = &attr
	}
	p.exec.SysProcAttr.Setpgid = !p.exec.SysProcAttr.Setsid

	var lines sync.Mutex
	var err error
	if p.out, err = newCapture(c, Stdout, c.Stdout, &lines); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	if p.err, err = newCapture(c, Stderr, c.Stderr, &lines); err != nil {
		p.out.close()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p.exec.Stdout, p.exec.Stderr = p.out.write, p.err.write
	p.begin = time.Now()
	if err := p.exec.Start(); err != nil {
		p.out.close()
		p.err.close()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	go p.out.run()
	go p.err.run()
	go p.watch(ctx)
	return p, nil
}

// watch owns the process from its start to its end.
func (p *Process) watch(ctx context.Context) {
	defer close(p.done)
	ended := make(chan error, 1)
	go func() { ended <- p.exec.Wait() }()

	expired := make(<-chan time.Time)
	if p.cmd.Timeout > 0 {
		t := time.NewTimer(p.cmd.Timeout)
		defer t.Stop()
		expired = t.C
	}
	var cause, waited error
	select {
	case waited = <-ended:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-expired:
		cause = timeoutError(p.cmd.Timeout)
	}
	if cause != nil {
		waited = p.terminate(ended)
	}
	// The group's number cannot be in use by another group while a member lives, and
	// was free a moment ago if none does.
	p.signalGroup(syscall.SIGKILL)
	p.out.finish()
	p.err.finish()
	p.report(cause, waited)
}

func (p *Process) terminate(ended <-chan error) error {
	p.signalGroup(syscall.SIGTERM)
	grace := p.cmd.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-ended:
		return err
	case <-t.C:
	}
	p.signalGroup(syscall.SIGKILL)
	return <-ended
}

func (p *Process) report(cause, waited error) {
	state := p.exec.ProcessState
	p.result = Result{
		Stdout:    p.out.kept.bytes(),
		Stderr:    p.err.kept.bytes(),
		ExitCode:  state.ExitCode(),
		Truncated: p.out.kept.left > 0 || p.err.kept.left > 0,
		Duration:  time.Since(p.begin),
	}
	fail := &ExitError{Command: p.cmd.String(), Program: p.cmd.Path, Code: state.ExitCode(), Cause: cause, Stderr: tail(p.result.Stderr)}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		fail.Signal = ws.Signal()
	}
	switch {
	case cause != nil, !state.Success():
		p.fault = fail
	case p.out.fault != nil:
		p.fault = fmt.Errorf("write output of %s: %w", p.cmd.Path, p.out.fault)
	case p.err.fault != nil:
		p.fault = fmt.Errorf("write output of %s: %w", p.cmd.Path, p.err.fault)
	case waited != nil && state.Success() && waited != exec.ErrWaitDelay:
		p.fault = fmt.Errorf("feed %s: %w", p.cmd.Path, waited)
	}
}

func (p *Process) signalGroup(s syscall.Signal) {
	// ESRCH is the normal case: no process is left.
	_ = syscall.Kill(-p.exec.Process.Pid, s)
}

// Pid is the program's process id.
func (p *Process) Pid() int { return p.exec.Process.Pid }

// Done is closed when the program has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program and returns the same results as Run. It may
// be called more than once.
func (p *Process) Wait() (Result, error) {
	<-p.done
	return p.result, p.fault
}

// Signal sends a signal to the program and all of its group.
func (p *Process) Signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("signal %s: %w", p.cmd.Path, os.ErrProcessDone)
	default:
	}
	if err := syscall.Kill(-p.Pid(), s); err != nil {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	return nil
}
