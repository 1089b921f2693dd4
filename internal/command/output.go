// SPDX-License-Identifier: MIT

package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"
)

// Print shows a result on stdout: as JSON with --json, else by its text view.
func (l *Line) Print(v any, text func(w io.Writer)) error {
	if l.JSON {
		return l.Encode(v)
	}
	p := &plain{to: l.Stdout}
	text(p)
	if p.err != nil {
		return fmt.Errorf("print result: %w", p.err)
	}
	return nil
}

// Encode writes v to stdout as JSON, with or without --json.
func (l *Line) Encode(v any) error {
	l.printed = true
	e := json.NewEncoder(l.Stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// Say writes a line about progress or an error to stderr.
func (l *Line) Say(format string, args ...any) {
	fmt.Fprintf(&plain{to: l.Stderr}, format+"\n", args...)
}

// plain writes text without control characters other than newlines: what
// machines, Nix or a control plane say must not drive the user's terminal
// (O10).
type plain struct {
	to  io.Writer
	err error // of the first write that failed
}

// Write is called with whole characters, as fmt and tabwriter do.
func (p *plain) Write(b []byte) (int, error) {
	clean := bytes.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r) && r != '\n':
			return -1
		}
		return r
	}, b)
	if p.err == nil {
		_, p.err = p.to.Write(clean)
	}
	if p.err != nil {
		return 0, p.err
	}
	return len(b), nil
}
