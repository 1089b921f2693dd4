// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"testing"
	"testing/synctest"
	"time"
)

// H20: what counts is the time in which the process ran. It counts on from where
// it was, and a process that slept for an hour did not run.
func TestRunningTime_CountsNoSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunningTime(1000)
		for range 3 {
			time.Sleep(beatEvery)
			r.now()
		}
		if got := r.now(); got != 16_000 {
			t.Errorf("after 15 seconds %d ms", got)
		}
		time.Sleep(time.Hour)
		if got := r.now(); got != 16_000+longestBeat.Milliseconds() {
			t.Errorf("after an hour asleep %d ms", got)
		}
	})
}
