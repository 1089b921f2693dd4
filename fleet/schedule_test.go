// SPDX-License-Identifier: MIT

package fleet

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func nightly(cron string, from time.Time) Schedule {
	return Schedule{Name: "n", Cron: cron, Policy: "p", Line: "main", ToleranceMs: DefaultTolerance, CreatedAt: from.UnixMilli(), LastAt: from.UnixMilli()}
}

// runs are the beginnings that s carries out while a control plane looks every
// step, but not while it is down.
func runs(s *Schedule, from, to time.Time, step time.Duration, down func(time.Time) bool) (list []string) {
	for t := from; !t.After(to); t = t.Add(step) {
		if down(t) {
			continue
		}
		if at, late := s.Due(t.UnixMilli()); at != 0 {
			if s.LastAt = at; !late {
				list = append(list, time.UnixMilli(at).UTC().Format("02T15:04"))
			}
		}
	}
	return list
}

func never(time.Time) bool { return false }

// When the clocks change, a nightly schedule begins once a night: at 03:00 when
// 02:30 is skipped, and at the first 02:30 of two.
func TestSchedule_BeginsOnceANightWhenTheClocksChange(t *testing.T) {
	for from, want := range map[string][]string{
		"2027-03-27T12:00:00Z": {"28T01:00", "29T00:30"}, // forward at 01:00 UTC
		"2027-10-30T12:00:00Z": {"31T00:30", "01T01:30"}, // back at 01:00 UTC
	} {
		begin, err := time.Parse(time.RFC3339, from)
		if err != nil {
			t.Fatal(err)
		}
		s := nightly("30 2 * * * Europe/Berlin", begin)
		if got := runs(&s, begin, begin.Add(40*time.Hour), time.Minute, never); !slices.Equal(got, want) {
			t.Errorf("from %s: %v, want %v", from, got, want)
		}
	}
}

// A beginning that is missed because the control plane is down is carried out once
// within the tolerance, and left out after it; of several the latest counts.
func TestSchedule_CarriesOutWhatItMissedOnceWithinTheTolerance(t *testing.T) {
	begin := time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		cron string
		up   string // again
		want []string
	}{
		{"0 3 * * *", "03:59", []string{"10T03:00"}},
		{"0 3 * * *", "04:02", nil},
		{"*/20 * * * *", "03:59", []string{"10T03:40", "10T04:00"}},
	} {
		up := must(time.Parse("2006-01-02 15:04", "2027-01-10 "+tt.up))
		s := nightly(tt.cron, begin)
		got := runs(&s, begin, begin.Add(4*time.Hour+5*time.Minute), time.Minute, func(t time.Time) bool { return t.Before(up) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s, up at %s: %v, want %v", tt.cron, tt.up, got, tt.want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// H20: whatever is done to the wall clock, and whenever the control plane is down,
// no beginning is carried out twice, none before its time, and none after its
// tolerance; one that the clock stays a day ahead of is no obstacle for ever.
func TestSchedule_NeverRepeatsABeginning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2027, 3, 27, 20, 0, 0, 0, time.UTC)
		s := nightly(rapid.SampledFrom([]string{"30 2 * * * Europe/Berlin", "*/30 * * * *", "0 * * * * Asia/Kathmandu", "0 3 28 3 *"}).Draw(t, "cron"), now)
		done := map[int64]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(-int64(20*time.Hour), int64(26*time.Hour)).Draw(t, "by")))
			if s.Ahead(now.UnixMilli()) {
				now = time.UnixMilli(s.LastAt)
			}
			at, late := s.Due(now.UnixMilli())
			if at == 0 {
				if next := s.Next(); next != 0 && next <= now.UnixMilli() {
					t.Fatal("nothing is due, and the next beginning is over")
				}
				continue
			}
			if done[at] || at <= s.LastAt || at > now.UnixMilli() || late != (now.UnixMilli()-at > s.ToleranceMs) {
				t.Fatalf("%d is due at %d, last was %d, done before: %t, late: %t", at, now.UnixMilli(), s.LastAt, done[at], late)
			}
			done[at], s.LastAt = true, at
			now = now.Add(time.Duration(max(0, at-now.UnixMilli())) * time.Millisecond)
		}
	})
	s := nightly("0 3 * * *", time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))
	if now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli(); !s.Ahead(now) {
		t.Error("a clock that was 70 years ahead stops a schedule for 70 years")
	}
}
