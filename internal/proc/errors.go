// SPDX-License-Identifier: MIT

package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// ExitError says how a program failed.
type ExitError struct {
	Program string         // its name or path
	Command string         // its whole command line
	Code    int            // exit code; -1 when a signal ended it
	Signal  syscall.Signal // the signal that ended it, if one did
	Stderr  string         // the last lines of standard error, at most 4 KiB
	Cause   error          // why it was stopped, if it was: the context's cause or the timeout
}

// Error is one line: program, how it ended, the last line of standard error.
func (e *ExitError) Error() string {
	var how string
	switch {
	case e.Cause != nil:
		how = e.Cause.Error()
	case e.Signal != 0:
		how = "ended by signal: " + e.Signal.String()
	default:
		how = fmt.Sprintf("exit code %d", e.Code)
	}
	if last := lastLine(e.Stderr); last != "" {
		how += ": " + last
	}
	return e.Program + ": " + how
}

// Unwrap is the cause: context.Canceled, context.DeadlineExceeded (also for
// Cmd.Timeout) or none.
func (e *ExitError) Unwrap() error { return e.Cause }

// ExitCode returns the exit code in err: 0 for nil, -1 if err is not an ExitError or
// the program was stopped or ended by a signal.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	var e *ExitError
	if errors.As(err, &e) && e.Cause == nil {
		return e.Code
	}
	return -1
}

type timeoutError time.Duration

func (e timeoutError) Error() string { return "timed out after " + time.Duration(e).String() }

// Is makes a timeout of Cmd.Timeout equal to one of the context.
func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

const maxTail = 4 << 10

// tail is the end of the output, from the beginning of a line.
func tail(out []byte) string {
	out = bytes.TrimSpace(out)
	if len(out) > maxTail {
		out = out[len(out)-maxTail:]
		if _, rest, ok := bytes.Cut(out, []byte("\n")); ok {
			out = rest
		}
	}
	return strings.ToValidUTF8(string(out), "\uFFFD")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return strings.TrimSpace(s)
}
