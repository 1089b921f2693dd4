// SPDX-License-Identifier: MIT

package api

import (
	"strconv"
	"strings"
	"sync"
)

// EpochHeader is the header by which a reply to an operator names how much of the
// audit trail is committed, and by which the next request echoes it. A control
// plane whose database lost what a client has seen notices it (E12). Agents have
// it in CheckIn and Orders.
const EpochHeader = "Nixfleet-Epoch"

// MaxEpoch bounds an epoch, in bytes.
const MaxEpoch = 300

// EpochAfter reports whether an epoch is of a later point than another one, which
// may be empty. Only its control plane can tell whether it is true.
func EpochAfter(epoch, other string) bool {
	generation, size, ok := epochPoint(epoch)
	if !ok {
		return false
	}
	g, s, ok := epochPoint(other)
	return !ok || generation > g || generation == g && size > s
}

// epochPoint reads generation and size of an epoch: GENERATION.SIZE.HEAD.CODE.
func epochPoint(epoch string) (generation, size uint64, ok bool) {
	parts := strings.Split(epoch, ".")
	if len(epoch) > MaxEpoch || len(parts) != 4 {
		return 0, 0, false
	}
	generation, err := strconv.ParseUint(parts[0], 10, 63)
	if err != nil {
		return 0, 0, false
	}
	size, err = strconv.ParseUint(parts[1], 10, 63)
	return generation, size, err == nil
}

// echo is the latest epoch that an operator's client has seen.
type echo struct {
	mu   sync.Mutex
	last string
	saw  func(string) // of each later one; may be nil
}

func (e *echo) epoch() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// take notes the epoch of a reply, if it is later than the last.
func (e *echo) take(epoch string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !EpochAfter(epoch, e.last) {
		return
	}
	if e.last = epoch; e.saw != nil {
		e.saw(epoch)
	}
}
