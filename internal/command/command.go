// SPDX-License-Identifier: MIT

// Package command is what the command lines of the three programs share: exit
// codes, the answer to a mistake, JSON on request, the version, and the end by
// a signal.
//
// It never knows what a command does.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
)

// Exit codes, the same for every command.
const (
	ExitDone      = 0 // done; a rollout completed
	ExitError     = 1 // an error, and nothing else fits
	ExitUsage     = 2 // the command line is invalid
	ExitFailed    = 3 // the rollout failed, was reverted, or paused for failures
	ExitCancelled = 4 // the rollout was cancelled or superseded, or Ctrl-C
	ExitTimeout   = 5 // --timeout ran out; the rollout goes on
	ExitPartial   = 6 // the rollout completed, and left machines behind that failed or were skipped
)

// Invocation is what the process gives to a program.
type Invocation struct {
	Version string
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Env     func(string) string
}

// Main runs a program with the streams and arguments of this process, and ends
// the process with the program's exit code. SIGINT and SIGTERM end ctx.
func Main(version string, run func(ctx context.Context, v Invocation) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, Invocation{Version: version, Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Getenv})
	stop()
	os.Exit(code)
}

// Line is the command line of one invocation.
type Line struct {
	Invocation
	JSON    bool // --json was given
	name    string
	printed bool // a result is on stdout: with --json, nothing may follow it
}

// New makes the command line of an invocation.
func New(v Invocation) *Line { return &Line{Invocation: v} }

// Execute runs the command that the arguments name. Its error is for End.
func (l *Line) Execute(ctx context.Context, root *cobra.Command) error {
	l.name = root.Name()
	root.SetArgs(append([]string{}, l.Args...)) // cobra takes nil for os.Args
	root.SetIn(l.Stdin)
	root.SetOut(l.Stdout)
	root.SetErr(l.Stderr)
	if l.wantsJSON() {
		root.SetOut(l.Stderr) // help is not JSON (O06)
	}
	root.InitDefaultCompletionCmd(l.Args...)
	l.Prepare(root)
	return root.ExecuteContext(ctx)
}

// End reports the error of Execute, if there is one, and returns the exit code.
func (l *Line) End(err error) int {
	if err == nil {
		return ExitDone
	}
	code := ExitError
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	l.complain(err)
	return code
}

// complain reports an error on stderr in words, and with --json on stdout too,
// where nothing but JSON may stand (O06).
func (l *Line) complain(err error) {
	hint := fleet.ErrorHint(err)
	if l.JSON && !l.printed {
		type problem struct {
			Code    fleet.Code `json:"code"`
			Message string     `json:"message"`
			Hint    string     `json:"hint,omitempty"`
		}
		// If stdout cannot be written, stderr still says what happened.
		_ = l.Encode(struct {
			Error problem `json:"error"`
		}{problem{fleet.ErrorCode(err), err.Error(), hint}})
	}
	l.Say("%s: %s", l.name, err)
	if hint != "" {
		l.Say("hint: %s", hint)
	}
}

// wantsJSON looks for --json by itself, for what happens before the flags are
// parsed, or when they cannot be.
func (l *Line) wantsJSON() bool {
	words := l.Args
	if i := slices.Index(words, "--"); i >= 0 {
		words = words[:i]
	}
	return slices.Contains(words, "--json") && !strings.HasPrefix(words[0], cobra.ShellCompRequestCmd)
}

// exitError ends the program with a code of its own. If err is nil, the user
// knows already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Exit ends the program with this code. Without an error, nothing is reported:
// what was printed has told the user.
func Exit(code int, err error) error { return &exitError{code, err} }

// HasCode reports whether an error has an exit code of its own.
func HasCode(err error) bool {
	var exit *exitError
	return errors.As(err, &exit)
}

// Usagef is an error in how the command was called.
func Usagef(format string, args ...any) error {
	return Exit(ExitUsage, fleet.Errorf(fleet.Invalid, format, args...))
}
