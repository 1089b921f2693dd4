// SPDX-License-Identifier: MIT

package fleet

import (
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Window is when something may be done, or may not: again and again, or once.
type Window struct {
	cron   Cron // when it opens, again and again
	length time.Duration
	// Of one that opens once.
	from, until time.Time
}

// maxWindow bounds a window's length.
const maxWindow = 7 * 24 * time.Hour

// maxOpenings bounds how often a window opens in an hour: to look for a time at
// which several are open, or none, costs as much.
const maxOpenings = 12

// windowHint shows what a window looks like.
const windowHint = `such as "0 3 * * 1-5 2h Europe/Paris", cron fields, length and zone, or once: "2026-12-24T00:00/2026-12-27T00:00 Europe/Paris"`

// ParseWindow reads "0 3 * * * 2h Europe/Paris": five cron fields for the
// beginning, as Cron has them, the length, and a time zone; UTC if there is none.
// The length is time that passes, also when the clocks change. Or it reads a
// window that opens once: "2026-12-24T00:00/2026-12-27T00:00 Europe/Paris". The
// error's code is Invalid.
func ParseWindow(text string) (Window, error) {
	w, err := parseWindow(strings.Fields(text))
	if err != nil {
		return Window{}, Errorf(Invalid, "window %q: %w", clip(text, 100), err).WithHint(windowHint)
	}
	return w, nil
}

func parseWindow(f []string) (w Window, err error) {
	zone := ""
	switch len(f) {
	case 2, 7:
		zone = f[len(f)-1]
	case 1, 6:
	default:
		return w, Errorf(Invalid, "five cron fields, a length and a time zone are needed")
	}
	if len(f) <= 2 {
		return parseOnce(f[0], zone)
	}
	if w.length, err = time.ParseDuration(f[5]); err != nil || w.length <= 0 || w.length > maxWindow {
		return w, Errorf(Invalid, "%q is not a length such as 2h, of at most 168h", clip(f[5], 40))
	}
	if w.cron, err = parseCron(f[:5], zone); err == nil && bits.OnesCount64(w.cron.minute) > maxOpenings {
		return w, Errorf(Invalid, "it opens more than %d times an hour", maxOpenings)
	}
	return w, err
}

func parseOnce(text, zone string) (w Window, err error) {
	loc, err := ParseZone(zone)
	if err != nil {
		return w, err
	}
	const layout = "2006-01-02T15:04"
	from, until, ok := strings.Cut(text, "/")
	if !ok {
		return w, Errorf(Invalid, "five cron fields, a length and a time zone are needed")
	}
	for _, d := range []struct {
		text string
		to   *time.Time
	}{{from, &w.from}, {until, &w.until}} {
		if *d.to, err = time.ParseInLocation(layout, d.text, loc); err != nil {
			return w, Errorf(Invalid, "%q is not a moment such as 2026-12-24T00:00", clip(d.text, 40))
		}
	}
	if !w.until.After(w.from) {
		return w, Errorf(Invalid, "it ends before it begins")
	}
	return w, nil
}

// Until returns when the window that is open at t closes; zero if none is open.
// The next one may be open by then.
func (w Window) Until(t time.Time) time.Time {
	begin, end := w.from, w.until
	if w.length > 0 {
		begin = w.cron.Last(t, int(w.length/(24*time.Hour))+1)
		end = begin.Add(w.length)
	}
	if begin.IsZero() || t.Before(begin) || !t.Before(end) {
		return time.Time{}
	}
	return end
}

// Open reports whether the window is open at t.
func (w Window) Open(t time.Time) bool { return !w.Until(t).IsZero() }

// Next returns when the window opens first after t; zero if it does not.
func (w Window) Next(t time.Time) time.Time {
	switch {
	case w.length > 0:
		return w.cron.Next(t)
	case w.from.After(t):
		return w.from
	}
	return time.Time{}
}

// Calendar is when work may begin: while a window is open, if there is any, and
// no blackout is.
type Calendar struct{ windows, blackouts []Window }

// MaxWindows bounds the windows and the blackouts of a calendar, MaxRecurring how
// many of them open again and again.
const MaxWindows, MaxRecurring = 50, 10

// ParseCalendar reads windows and blackouts. The error's code is Invalid.
func ParseCalendar(windows, blackouts []string) (c Calendar, err error) {
	for _, list := range []struct {
		name string
		text []string
		to   *[]Window
	}{{"windows", windows, &c.windows}, {"blackouts", blackouts, &c.blackouts}} {
		if len(list.text) > MaxWindows {
			return Calendar{}, Errorf(Invalid, "%d %s are more than %d", len(list.text), list.name, MaxWindows)
		}
		for _, t := range list.text {
			w, err := ParseWindow(t)
			if err != nil {
				return Calendar{}, err
			}
			*list.to = append(*list.to, w)
		}
		if n := len(slices.DeleteFunc(slices.Clone(*list.to), func(w Window) bool { return w.length == 0 })); n > MaxRecurring {
			return Calendar{}, Errorf(Invalid, "%d %s open again and again, more than %d", n, list.name, MaxRecurring)
		}
	}
	return c, nil
}

// Always reports whether work may begin at any time.
func (c Calendar) Always() bool { return len(c.windows)+len(c.blackouts) == 0 }

// Open reports whether work may begin at t.
func (c Calendar) Open(t time.Time) bool {
	return c.blackout(t).IsZero() && (len(c.windows) == 0 || !c.window(t).IsZero())
}

// window returns when the last of the windows that are open at t closes; zero if
// none is.
func (c Calendar) window(t time.Time) time.Time { return lastUntil(c.windows, t) }

// blackout returns when the last of the blackouts at t ends; zero if there is none.
func (c Calendar) blackout(t time.Time) time.Time { return lastUntil(c.blackouts, t) }

func lastUntil(windows []Window, t time.Time) (last time.Time) {
	for _, w := range windows {
		if u := w.Until(t); u.After(last) {
			last = u
		}
	}
	return last
}

// maxSteps bounds how many beginnings and ends Calendar.Next looks at.
const maxSteps = 100

// Next returns the first moment from t on at which work may begin; zero if there
// is none within two years, or windows and blackouts alternate for too long.
func (c Calendar) Next(t time.Time) time.Time {
	end := t.AddDate(2, 0, 0)
	for range maxSteps {
		if t.After(end) {
			break
		}
		if u := c.blackout(t); !u.IsZero() {
			t = u
			continue
		}
		if len(c.windows) == 0 || !c.window(t).IsZero() {
			return t
		}
		next := time.Time{}
		for _, w := range c.windows {
			if n := w.Next(t); !n.IsZero() && (next.IsZero() || n.Before(next)) {
				next = n
			}
		}
		if next.IsZero() {
			return next
		}
		t = next
	}
	return time.Time{}
}

// Closes returns a moment after t, at which work may begin, by which it may no
// longer; it is worth another look then. Zero: it may begin at any later time.
func (c Calendar) Closes(t time.Time) time.Time {
	closes := c.window(t)
	for _, b := range c.blackouts {
		if n := b.Next(t); !n.IsZero() && (closes.IsZero() || n.Before(closes)) {
			closes = n
		}
	}
	return closes
}
