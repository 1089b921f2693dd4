// SPDX-License-Identifier: MIT

package fleet

import (
	"errors"
	"fmt"
	"slices"
)

// Code says what kind of error happened; it is stable and part of the API.
type Code string

// The error codes. Each maps to one HTTP status (api.Status) and one CLI exit
// code.
const (
	Invalid         Code = "invalid"                // the input breaks a rule: fix it and try again
	Unauthenticated Code = "unauthenticated"        // no credential, or one that is unknown, expired or revoked
	Forbidden       Code = "forbidden"              // a known caller who may not do this
	NotFound        Code = "not-found"              // no such thing
	Conflict        Code = "conflict"               // the present state forbids it
	TooLarge        Code = "too-large"              // input beyond its limit
	RateLimited     Code = "rate-limited"           // too many calls: try again after the time that is asked for
	Unavailable     Code = "unavailable"            // a part is down or busy: try again
	Refused         Code = "refused"                // a document that the trust rules reject
	KeyReused       Code = "idempotency-key-reused" // an Idempotency-Key that named another call
	Changed         Code = "changed"                // what was to be changed is not as the caller saw it: look again
	StorageFull     Code = "storage-full"           // no room on the control plane's disk: try again when there is
	StorageFailed   Code = "storage-failed"         // the control plane's disk or database does not work
	Internal        Code = "internal"               // a fault of ours
)

// Codes lists them all.
var Codes = [...]Code{Invalid, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, RateLimited, Unavailable, Refused, KeyReused, Changed, StorageFull, StorageFailed, Internal}

// Valid reports whether c is one of the codes above.
func (c Code) Valid() bool { return slices.Contains(Codes[:], c) }

// Temporary reports whether the same call may succeed later, as it is.
func (c Code) Temporary() bool {
	return c == Unavailable || c == RateLimited || c == StorageFull || c == StorageFailed
}

// Error is an error that crosses a boundary: it says what happened and, in
// Hint, what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Err is the cause, for the log of the side that had it. It does not
	// travel.
	Err error `json:"-"`
}

// Error returns the message, without the hint.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error. A %w among the arguments becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint returns a copy of e that tells the user what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// ErrorCode returns the code of err: its own if it is or wraps an Error, else
// Internal. It returns "" for nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// ErrorHint returns the hint of err, or "".
func ErrorHint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
