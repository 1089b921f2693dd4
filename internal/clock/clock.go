// SPDX-License-Identifier: MIT

// Package clock names the type of a clock, so that a test can hand in its own.
//
// It never waits: timers are the time package's.
package clock

import "time"

// Clock tells the time. A nil Clock is time.Now.
type Clock func() time.Time

// Now is the present time.
func (c Clock) Now() time.Time {
	if c == nil {
		return time.Now()
	}
	return c()
}

// UnixMilli is the present time in Unix milliseconds, as the nouns of fleet
// have it.
func (c Clock) UnixMilli() int64 { return c.Now().UnixMilli() }
