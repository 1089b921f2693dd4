// SPDX-License-Identifier: MIT

// Package cli is the nixfleet command: one file per noun. Text is a view of
// the value that --json prints; results go to stdout, all else to stderr.
//
// It never decides what a rollout does, and never talks to a control plane's
// database.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/complete"
)

// Exit codes, the same for every command.
const (
	ExitDone      = 0 // done; a rollout completed
	ExitError     = 1 // an error, and nothing else fits
	ExitUsage     = 2 // the command line makes no sense
	ExitFailed    = 3 // the rollout failed, was reverted, or paused for failures
	ExitCancelled = 4 // the rollout was cancelled or superseded, or Ctrl-C
	ExitTimeout   = 5 // --timeout ran out; the rollout goes on
	ExitPartial   = 6 // the rollout completed, and left machines behind that failed or were skipped
)

// Config is what the process gives to the command.
type Config struct {
	Version string
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Env     func(string) string
}

// app is what the commands share.
type app struct {
	Config
	json    bool
	printed bool // a result is on stdout: with --json, nothing may follow it
	flags   flags
}

// exitError ends the command with a code of its own. A nil err has been told
// to the user already.
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

// usagef is an error in how the command was called.
func usagef(format string, args ...any) error {
	return &exitError{ExitUsage, fleet.Errorf(fleet.Invalid, format, args...)}
}

// Run runs the command line and returns its exit code.
func Run(ctx context.Context, c Config) int {
	a := &app{Config: c}
	root := a.root()
	root.SetArgs(c.Args)
	root.SetIn(c.Stdin)
	root.SetOut(c.Stdout)
	root.SetErr(c.Stderr)
	if a.wantsJSON() {
		root.SetOut(c.Stderr) // help, for one, is no JSON (O06)
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitDone
	}
	code := ExitError
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		code = exit.code
		if exit.err == nil {
			return code
		}
	case ctx.Err() != nil:
		code, err = ExitCancelled, fleet.Errorf(fleet.Unavailable, "stopped by a signal")
	}
	a.complain(err)
	return code
}

// Commands is the tree of all commands, for the reference.
func Commands(c Config) *cobra.Command {
	return (&app{Config: c}).root()
}

// wantsJSON looks for --json by itself, for what happens before the flags are
// read to their end, or because they cannot be.
func (a *app) wantsJSON() bool {
	words := a.Args
	if i := slices.Index(words, "--"); i >= 0 {
		words = words[:i]
	}
	return slices.Contains(words, "--json") && !strings.HasPrefix(words[0], cobra.ShellCompRequestCmd)
}

// complain tells the user what went wrong: on stderr in words, and with --json
// on stdout too, where nothing but JSON may stand (O06).
func (a *app) complain(err error) {
	hint := fleet.ErrorHint(err)
	if a.json && !a.printed {
		type problem struct {
			Code    fleet.Code `json:"code"`
			Message string     `json:"message"`
			Hint    string     `json:"hint,omitempty"`
		}
		a.encode(struct {
			Error problem `json:"error"`
		}{problem{fleet.ErrorCode(err), err.Error(), hint}})
	}
	a.say("nixfleet: %s", err)
	if hint != "" {
		a.say("  hint: %s", hint)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "nixfleet",
		Short:         "Manage a fleet of NixOS and macOS machines",
		Example:       "  nixfleet demo\n  nixfleet release create && nixfleet rollout create --strategy canary --wait",
		Version:       a.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.json = a.json || a.wantsJSON()
		return &exitError{ExitUsage, fleet.Errorf(fleet.Invalid, "%w", err).WithHint("%s --help shows how", cmd.CommandPath())}
	})
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print JSON on stdout, and nothing else there")
	a.flags.register(f)
	root.AddCommand(a.trustCmd(), a.releaseCmd(), a.rolloutCmd(), a.machineCmd(), a.keyCmd(), a.auditCmd(), a.demoCmd())
	for _, c := range root.Commands() {
		a.noun(c)
	}
	a.noun(root)
	complete.Commands(root, a.shellClient)
	return root
}

// noun makes a command that only holds others refuse words it does not know,
// as a usage error.
func (a *app) noun(c *cobra.Command) {
	if !c.HasSubCommands() || c.RunE != nil {
		return
	}
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && a.json:
			return &exitError{ExitUsage, fleet.Errorf(fleet.Invalid, "%s wants a command", c.CommandPath()).WithHint("%s --help lists them", c.CommandPath())}
		case len(args) == 0:
			return c.Help()
		}
		err := fleet.Errorf(fleet.Invalid, "%s has no command %q", c.CommandPath(), args[0]).WithHint("%s --help lists them", c.CommandPath())
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			err = err.WithHint("did you mean %s?", strings.Join(near, " or "))
		}
		return &exitError{ExitUsage, err}
	}
}

// args wraps a cobra check of arguments so that it is a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return &exitError{ExitUsage, fleet.Errorf(fleet.Invalid, "%w", err).WithHint("usage: %s", cmd.UseLine())}
		}
		return nil
	}
}

// print shows v: as JSON, or by its text view.
func (a *app) print(v any, text func(w io.Writer)) error {
	if a.json {
		return a.encode(v)
	}
	text(plain{a.Stdout})
	return nil
}

func (a *app) encode(v any) error {
	a.printed = true
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// table prints rows below a header, in columns.
func table(w io.Writer, header string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = strings.Map(func(r rune) rune {
				if unicode.IsControl(r) {
					return ' '
				}
				return r
			}, c)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	t.Flush()
}

// say tells progress, on stderr.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(plain{a.Stderr}, format+"\n", args...)
}

// plain writes text without control characters but newlines: what machines, Nix
// or a control plane say must not drive the user's terminal (O10).
type plain struct{ w io.Writer }

// Write is called with whole characters, as fmt and tabwriter do.
func (p plain) Write(b []byte) (int, error) {
	clean := bytes.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r) && r != '\n':
			return -1
		}
		return r
	}, b)
	if _, err := p.w.Write(clean); err != nil {
		return 0, err
	}
	return len(b), nil
}

// readFile reads a file of at most limit bytes; "-" is standard input.
func (a *app) readFile(name string, limit int64) ([]byte, error) {
	in := a.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "%w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fleet.Errorf(fleet.TooLarge, "%s has more than %d bytes", name, limit)
	}
	return b, nil
}
