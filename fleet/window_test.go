// SPDX-License-Identifier: MIT

package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
)

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A window is open for its length, also on the days when the clocks change: a
// beginning that the clocks skip is when they have gone forward, one that they
// show twice is the first of the two.
func TestWindow_IsOpenForItsLengthWhenClocksChange(t *testing.T) {
	for _, tc := range []struct {
		window, from, to string
		minutes          int
		first            string
	}{
		{"30 2 * * 0 2h Europe/Berlin", "2026-03-22T00:00:00Z", "2026-03-23T00:00:00Z", 120, "01:30"},
		{"30 2 * * 0 2h Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z", 120, "01:00"}, // 02:30 is skipped
		{"30 2 * * * 2h Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z", 120, "01:00"},
		{"0 1 * * 0 3h Europe/Berlin", "2026-03-28T22:00:00Z", "2026-03-29T12:00:00Z", 180, "00:00"}, // within
		{"30 2 * * 0 1h Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T12:00:00Z", 60, "00:30"}, // 02:30 is twice
		{"30 * * * 0 10m Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z", 30, "00:30"},
		{"15 2 * * 0 1h America/New_York", "2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z", 60, "07:00"},
		{"10 2 * * 0 1h Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-04T12:00:00Z", 60, "15:30"}, // by half an hour
		{"0 0 * * 0 2h Asia/Beirut", "2026-03-28T18:00:00Z", "2026-03-29T18:00:00Z", 120, "22:00"},         // midnight is skipped
		{"0 9 30 12 * 1h Pacific/Apia", "2011-12-28T00:00:00Z", "2012-01-02T00:00:00Z", 60, "10:00"},       // the day is skipped
		{"0 23 31 12 * 4h UTC", "2026-12-31T20:00:00Z", "2027-01-01T08:00:00Z", 240, "23:00"},
		{"0 3 * * * 36h UTC", "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z", 1440, "00:00"},
		{"0 3 1-7 * sat 1h", "2026-05-01T00:00:00Z", "2026-05-17T00:00:00Z", 9 * 60, "03:00"}, // either day field, as crontab(5) has it
		{"2026-03-29T02:30/2026-03-29T04:00 Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z", 30, "01:30"},
	} {
		w, err := fleet.ParseWindow(tc.window)
		if err != nil {
			t.Fatal(err)
		}
		n, first := 0, ""
		for at := instant(t, tc.from); at.Before(instant(t, tc.to)); at = at.Add(time.Minute) {
			if w.Open(at) {
				if n++; first == "" {
					first = at.Format("15:04")
				}
			}
		}
		if n != tc.minutes || first != tc.first {
			t.Errorf("%s is open for %d minutes of %s, from %s; want %d from %s", tc.window, n, tc.from, first, tc.minutes, tc.first)
		}
	}
}

func TestParseWindow_RefusesWhatNeverOpens(t *testing.T) {
	for _, bad := range []string{
		"", "soon", "0 3 * * *", "0 3 * * * 2", "0 3 * * * 0h", "0 3 * * * 200h", "0 3 * * * 2h Europe/Pariss", "0 3 * * * 2h Local",
		"0 25 * * * 2h", "60 3 * * * 2h", "0 3 0 * * 2h", "0 3 30 2 * 2h UTC", "0 3 31 4,6,9,11 * 2h", "0 3 5-2 * * 2h", "0 3 */0 * * 2h", "+5 3 * * * 2h",
		"2026-12-24/2026-12-27", "2026-12-27T00:00/2026-12-24T00:00", "2026-12-24T00:00/2026-12-24T00:00 UTC", "2026-12-24T00:00/2026-12-27T00:00 Mars/Olympus",
	} {
		if _, err := fleet.ParseWindow(bad); fleet.ErrorCode(err) != fleet.Invalid || fleet.ErrorHint(err) == "" {
			t.Errorf("%q: %v, want invalid with a hint", bad, err)
		}
	}
	for _, good := range []string{"0 3 29 2 * 2h", "0 3 30 2 1 2h", "*/5 8-17/3 * jan-MAR,12 7 30m Asia/Kathmandu"} {
		if _, err := fleet.ParseWindow(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

var calendars = []struct{ windows, blackouts []string }{
	{nil, []string{"0 8 * * 1-5 10h Europe/Berlin"}},
	{[]string{"0 3 * * * 2h Europe/Berlin"}, nil},
	{[]string{"30 2 * * 0 90m Europe/Berlin", "0 22 * * 5 4h America/New_York"}, []string{"0 3 1 * * 30m Europe/Berlin"}},
	{[]string{"30 2 * * * 1h Australia/Lord_Howe"}, []string{"2026-10-01T00:00/2026-10-05T00:00 Australia/Lord_Howe"}},
}

// Next is the first moment at which work may begin, and until Closes it may: what
// a look at each minute says.
func TestCalendar_SaysWhenItOpensAndCloses(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		v := rapid.SampledFrom(calendars).Draw(r, "calendar")
		c, err := fleet.ParseCalendar(v.windows, v.blackouts)
		if err != nil {
			r.Fatal(err)
		}
		day := rapid.SampledFrom([]int64{1774742400, 1792886400, 1790985600, 1780272000}).Draw(r, "about")
		at := time.Unix(day+60*rapid.Int64Range(-2000, 2000).Draw(r, "minute"), 0).UTC()
		next := c.Next(at)
		if c.Open(at) != next.Equal(at) || !c.Open(next) {
			r.Fatalf("%v: open %t at %s, next %s is open %t", v, c.Open(at), at, next, c.Open(next))
		}
		for m := at; m.Before(next); m = m.Add(time.Minute) {
			if c.Open(m) {
				r.Fatalf("%v: next after %s is %s, and it is open at %s", v, at, next, m)
			}
		}
		closes := c.Closes(next)
		for m := next; m.Before(closes); m = m.Add(time.Minute) {
			if !c.Open(m) {
				r.Fatalf("%v: open from %s, closes at %s, and is closed at %s", v, next, closes, m)
			}
		}
	})
}

func TestCalendar_KnowsThatItNeverOpens(t *testing.T) {
	c, err := fleet.ParseCalendar([]string{"0 3 * * * 1h"}, []string{"0 0 * * * 24h"})
	if err != nil {
		t.Fatal(err)
	}
	if at := c.Next(time.Unix(1774742400, 0)); !at.IsZero() {
		t.Errorf("opens at %s", at)
	}
}

// Calendars that nobody would make cost no more than others: the control plane
// looks at one at every step of its rollout.
func TestCalendar_ThatAlternatesForeverIsGivenUp(t *testing.T) {
	if _, err := fleet.ParseWindow("* * * * * 1m"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("a window of every minute: %v", err)
	}
	var windows, blackouts []string
	for i := range fleet.MaxRecurring {
		windows = append(windows, fmt.Sprintf("%d-59/5 * * * * 1m", i%5))
		blackouts = append(blackouts, fmt.Sprintf("%d-59/5 * * * * 2m", i%5))
	}
	if _, err := fleet.ParseCalendar(append(windows, "0 3 * * * 1h"), nil); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("%d windows that recur: %v", len(windows)+1, err)
	}
	c, err := fleet.ParseCalendar(windows, blackouts)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if next := c.Next(begin); !next.IsZero() {
		t.Errorf("it is open at %s", next)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}
