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

// Whoever looks at a deadline twice is shown the same time, and so the same ETag,
// though the two clocks are read one after the other and cut to milliseconds; a
// clock that is set is followed at once.
func TestMoment_ShowsADeadlineAsTheSameTimeAgain(t *testing.T) {
	var set time.Duration
	l := &Loop{Clock: func() time.Time { return time.Now().Add(set) }, running: newRunningTime(1000)}
	first := l.Moment().Expect(5000)
	for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
		if again := l.Moment().Expect(5000); again != first {
			t.Fatalf("at first %d, then %d", first, again)
		}
	}
	set = time.Minute
	if late := l.Moment().Expect(5000) - first; late < 59_990 || late > 60_010 {
		t.Errorf("a clock that was set by a minute has moved it by %d ms", late)
	}
}
