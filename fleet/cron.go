// SPDX-License-Identifier: MIT

package fleet

import (
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones by name, also where the system has none
)

// Cron says when something begins: the five fields of crontab(5), minute, hour,
// day of the month, month and day of the week, in a time zone.
//
// A beginning that the clocks skip, because they go forward, is when they have
// done so. One that they show twice, because they are set back, is the first of the
// two; with `*` for the hour it is both.
type Cron struct {
	zone                              *time.Location
	minute, hour, day, month, weekday uint64 // a bit for each value
	everyHour, everyDay, everyWeekday bool   // the field begins with *
}

// cronField is the syntax of one field of Cron.
type cronField struct {
	name     string
	min, max int
	words    []string // for min, min+1 and so on
}

var cronFields = [...]cronField{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of the month", 1, 31, nil},
	{"month", 1, 12, strings.Fields("jan feb mar apr may jun jul aug sep oct nov dec")},
	{"day of the week", 0, 7, strings.Fields("sun mon tue wed thu fri sat")},
}

// cronHint shows what a Cron looks like.
const cronHint = `such as "30 2 * * 1-5 Europe/Paris": minute, hour, day of the month, month, day of the week, zone`

// ParseCron reads "30 2 * * 0 Europe/Berlin"; the zone is UTC if there is none.
// The error's code is Invalid.
func ParseCron(text string) (Cron, error) {
	f := strings.Fields(text)
	zone := ""
	if len(f) == 6 {
		zone = f[5]
	}
	if len(f) != 5 && len(f) != 6 {
		return Cron{}, Errorf(Invalid, "%q: five cron fields and a time zone are needed", clip(text, 100)).WithHint(cronHint)
	}
	c, err := parseCron(f[:5], zone)
	if err != nil {
		return Cron{}, Errorf(Invalid, "%q: %w", clip(text, 100), err).WithHint(cronHint)
	}
	return c, nil
}

func parseCron(fields []string, zone string) (c Cron, err error) {
	if c.zone, err = ParseZone(zone); err != nil {
		return c, err
	}
	for i, bits := range []*uint64{&c.minute, &c.hour, &c.day, &c.month, &c.weekday} {
		if *bits, err = cronFields[i].parse(fields[i]); err != nil {
			return c, err
		}
	}
	if c.weekday&(1<<7) != 0 {
		c.weekday |= 1
	}
	every := func(i int) bool { return strings.HasPrefix(fields[i], "*") }
	c.everyHour, c.everyDay, c.everyWeekday = every(1), every(2), every(4)
	if c.everyWeekday && !c.everyDay && !c.dayExists() {
		return c, Errorf(Invalid, "no month of it has such a day")
	}
	return c, nil
}

// ParseZone returns a zone by its name in the IANA database; "" is UTC. The
// error's code is Invalid.
func ParseZone(name string) (*time.Location, error) {
	if name == "Local" { // each machine has another
		return nil, Errorf(Invalid, "%q is not a time zone", name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, Errorf(Invalid, "%q is not a time zone", clip(name, 60))
	}
	return zone, nil
}

// parse returns the values that a field allows, a bit for each.
func (f cronField) parse(text string) (bits uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		span, every, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			if step, err = strconv.Atoi(every); err != nil || step < 1 || step > f.max {
				return 0, f.bad(part)
			}
		}
		first, last := f.min, f.max
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			if first, err = f.value(from); err != nil {
				return 0, f.bad(part)
			}
			switch {
			case ranged:
				if last, err = f.value(to); err != nil || last < first {
					return 0, f.bad(part)
				}
			case !stepped:
				last = first
			}
		}
		for v := first; v <= last; v += step {
			bits |= 1 << v
		}
	}
	return bits, nil
}

func (f cronField) value(s string) (int, error) {
	if i := slices.Index(f.words, strings.ToLower(s)); i >= 0 {
		return f.min + i, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < f.min || n > f.max || s[0] == '+' {
		return 0, f.bad(s)
	}
	return n, nil
}

func (f cronField) bad(s string) error {
	return Errorf(Invalid, "%q is not a %s from %d to %d", clip(s, 40), f.name, f.min, f.max)
}

// dayExists reports whether any month of the set has a day of the set.
func (c Cron) dayExists() bool {
	for m := time.January; m <= time.December; m++ {
		days := time.Date(2000, m+1, 0, 0, 0, 0, 0, time.UTC).Day() // 2000 was a leap year
		if c.month&(1<<m) != 0 && c.day&(1<<(days+1)-1) != 0 {
			return true
		}
	}
	return false
}

// onDay reports whether something begins on a day, of which only the date counts.
func (c Cron) onDay(d time.Time) bool {
	day, weekday := c.day&(1<<d.Day()) != 0, c.weekday&(1<<int(d.Weekday())) != 0
	if !c.everyDay && !c.everyWeekday {
		day, weekday = day || weekday, true // as crontab(5) has it
	}
	return c.month&(1<<d.Month()) != 0 && day && weekday
}

// beginnings returns the moments of a day, of which only the date counts, in
// order.
func (c Cron) beginnings(d time.Time) (list []time.Time) {
	if !c.onDay(d) {
		return nil
	}
	for h := range 24 {
		for m := range 60 {
			if c.hour&(1<<h) != 0 && c.minute&(1<<m) != 0 {
				list = append(list, c.moments(time.Date(d.Year(), d.Month(), d.Day(), h, m, 0, 0, time.UTC))...)
			}
		}
	}
	slices.SortFunc(list, time.Time.Compare)
	return list
}

// moments returns when the clocks of the zone show what wall shows in UTC.
func (c Cron) moments(wall time.Time) []time.Time {
	at := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, c.zone)
	begin, end := at.ZoneBounds()
	_, offset := at.Zone()
	shown := at.UTC().Add(time.Duration(offset) * time.Second)
	switch {
	case shown.After(wall): // skipped, and read by the offset before
		return []time.Time{begin}
	case shown.Before(wall): // skipped, and read by the offset after
		return []time.Time{end}
	}
	all := []time.Time{at}
	if first := wall.Add(-offsetAt(begin.Add(-1), c.zone)); !begin.IsZero() && first.Before(begin) {
		all = []time.Time{first, at}
	} else if second := wall.Add(-offsetAt(end, c.zone)); !end.IsZero() && !second.Before(end) {
		all = append(all, second)
	}
	if !c.everyHour {
		return all[:1]
	}
	return all
}

func offsetAt(t time.Time, zone *time.Location) time.Duration {
	_, offset := t.In(zone).Zone()
	return time.Duration(offset) * time.Second
}

// horizon is how many days ahead a beginning is looked for: 29 February may be
// eight years away.
const horizon = 9 * 366

// Next returns the first beginning after t, zero if there is none in nine years.
func (c Cron) Next(t time.Time) time.Time {
	today := t.In(c.zone)
	for i := -1; i < horizon; i++ { // what is skipped late on a day may begin on the next
		for _, b := range c.beginnings(time.Date(today.Year(), today.Month(), today.Day()+i, 0, 0, 0, 0, time.UTC)) {
			if b.After(t) {
				return b.UTC()
			}
		}
	}
	return time.Time{}
}

// Last returns the latest beginning at or before t, zero if there is none within
// so many days.
func (c Cron) Last(t time.Time, days int) time.Time {
	today := t.In(c.zone)
	var last time.Time
	for i := range days + 2 {
		for _, b := range c.beginnings(time.Date(today.Year(), today.Month(), today.Day()-i, 0, 0, 0, 0, time.UTC)) {
			if !b.After(t) && b.After(last) {
				last = b.UTC()
			}
		}
		if !last.IsZero() && i > 0 {
			break // what is skipped on the day before may begin on this one
		}
	}
	return last
}
