// SPDX-License-Identifier: MIT

package api

import (
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// ProblemType is the media type of errors (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is an error as it travels: RFC 9457 with the stable code and the
// hint of a fleet.Error.
type Problem struct {
	Type   string     `json:"type,omitempty"`
	Title  string     `json:"title"`
	Status int        `json:"status"`
	Detail string     `json:"detail"`
	Code   fleet.Code `json:"code"`
	Hint   string     `json:"hint,omitempty"`
}

// NewProblem returns the problem that a caller gets for err. An error that is
// not a fleet.Error is a fault of ours: its text stays in our log.
func NewProblem(err error) Problem {
	code := fleet.ErrorCode(err)
	p := Problem{Status: Status(code), Code: code, Detail: "internal error; the control plane's log has it"}
	if code != fleet.Internal {
		p.Detail, p.Hint = err.Error(), fleet.ErrorHint(err)
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// Err returns the error that a problem was made from.
func (p Problem) Err() error {
	code := p.Code
	if !code.Valid() {
		code = codeOf(p.Status)
	}
	return &fleet.Error{Code: code, Message: p.Detail, Hint: p.Hint}
}

// Status is the HTTP status of an error code.
func Status(c fleet.Code) int {
	switch c {
	case fleet.Invalid:
		return http.StatusUnprocessableEntity
	case fleet.Unauthenticated:
		return http.StatusUnauthorized
	case fleet.Forbidden:
		return http.StatusForbidden
	case fleet.NotFound:
		return http.StatusNotFound
	case fleet.Conflict:
		return http.StatusConflict
	case fleet.TooLarge:
		return http.StatusRequestEntityTooLarge
	case fleet.RateLimited:
		return http.StatusTooManyRequests
	case fleet.Unavailable, fleet.StorageFull, fleet.StorageFailed:
		return http.StatusServiceUnavailable
	case fleet.Refused, fleet.KeyReused:
		return http.StatusUnprocessableEntity
	case fleet.Changed:
		return http.StatusPreconditionFailed
	case fleet.Internal:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

// codeOf is the code for a status that came without one, from a proxy for
// example.
func codeOf(status int) fleet.Code {
	switch {
	case status == http.StatusUnauthorized:
		return fleet.Unauthenticated
	case status == http.StatusForbidden:
		return fleet.Forbidden
	case status == http.StatusNotFound:
		return fleet.NotFound
	case status == http.StatusConflict:
		return fleet.Conflict
	case status == http.StatusRequestEntityTooLarge:
		return fleet.TooLarge
	case status == http.StatusTooManyRequests:
		return fleet.RateLimited
	case status == http.StatusPreconditionFailed:
		return fleet.Changed
	case status >= 502 && status <= 504:
		return fleet.Unavailable
	case status >= 500:
		return fleet.Internal
	}
	return fleet.Invalid
}
