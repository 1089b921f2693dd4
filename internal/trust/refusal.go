// SPDX-License-Identifier: MIT

package trust

import (
	"errors"
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxDetail bounds the text of a refusal in bytes: part of it quotes input.
const maxDetail = 400

// Refusal is why a document or a release was not accepted. It is an error
// whose code (fleet.ErrorCode) is Refused.
type Refusal struct {
	Reason fleet.Reason `json:"reason"`
	Detail string       `json:"detail"` // for people, at most a few hundred bytes
}

// Error returns the reason and the detail.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Detail }

// Unwrap gives the refusal its code at boundaries.
func (r *Refusal) Unwrap() error { return fleet.Errorf(fleet.Refused, "%s: %s", r.Reason, r.Detail) }

// ReasonOf returns the reason of the Refusal that err is or wraps, or "".
func ReasonOf(err error) fleet.Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

func refuse(reason fleet.Reason, format string, args ...any) *Refusal {
	d := fmt.Sprintf(format, args...)
	if len(d) > maxDetail {
		d = strings.ToValidUTF8(d[:maxDetail], "") + "..."
	}
	return &Refusal{Reason: reason, Detail: d}
}

// about adds the name of the document to a refusal.
func about(what string, err error) error {
	var r *Refusal
	if errors.As(err, &r) {
		return refuse(r.Reason, "%s: %s", what, r.Detail)
	}
	return refuse(fleet.ReasonMalformed, "%s: %v", what, err)
}
