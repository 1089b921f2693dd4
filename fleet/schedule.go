// SPDX-License-Identifier: MIT

package fleet

import "time"

// Schedule begins rollouts at moments of the wall clock: of the newest release of
// a line then, by a policy as it is then.
type Schedule struct {
	Name   string `json:"name"`
	Cron   string `json:"cron"` // as ParseCron reads it
	Policy string `json:"policy"`
	Line   Line   `json:"line"`
	// ToleranceMs is how long after its beginning a rollout may still begin, because
	// the control plane was down. Later the beginning is left out.
	ToleranceMs int64  `json:"toleranceMs"`
	CreatedAt   int64  `json:"createdAt"` // Unix milliseconds
	CreatedBy   string `json:"createdBy"` // actor; the author of its rollouts

	// LastAt is the latest beginning that was carried out or left out, in Unix
	// milliseconds; none up to it is carried out again. Before the first it is
	// CreatedAt.
	LastAt      int64     `json:"lastAt"`
	LastRollout RolloutID `json:"lastRollout,omitempty"` // the latest that it began
	LastWhy     string    `json:"lastWhy,omitempty"`     // why the latest beginning was left out; empty if it was not
	// NextAt is the next beginning, in Unix milliseconds; 0: none. It is not kept.
	NextAt int64 `json:"nextAt"`
}

const (
	// DefaultTolerance is the tolerance of a schedule that names none, in
	// milliseconds.
	DefaultTolerance = 3600 * 1000
	// clockReset is by how much the wall clock has to be behind a schedule's last
	// beginning until that is taken for a mistake of the clock, in milliseconds.
	clockReset = 24 * 3600 * 1000
)

// Validate reports the first thing wrong with s; the code is Invalid.
func (s Schedule) Validate() error {
	const day = 24 * 3600 * 1000
	cron, err := ParseCron(s.Cron)
	switch {
	case !gateName.MatchString(s.Name):
		return Errorf(Invalid, "%q is not the name of a schedule", clip(s.Name, 60)).WithHint("lower case letters, digits and '-', up to 40")
	case err != nil:
		return Errorf(Invalid, "schedule %s: %w", s.Name, err).WithHint("%s", ErrorHint(err))
	case !s.Line.Valid():
		return Errorf(Invalid, "schedule %s: %q is not the name of a line", s.Name, clip(string(s.Line), 63))
	case !gateName.MatchString(s.Policy):
		return Errorf(Invalid, "schedule %s: %q is not the name of a policy", s.Name, clip(s.Policy, 60)).WithHint("nixfleet policy list shows them")
	case s.ToleranceMs < 60e3 || s.ToleranceMs > 7*day:
		return Errorf(Invalid, "schedule %s: a tolerance of %d ms must be between a minute and 7 days", s.Name, s.ToleranceMs)
	case cron.Next(time.UnixMilli(s.CreatedAt)).IsZero():
		return Errorf(Invalid, "schedule %s: %q never begins", s.Name, clip(s.Cron, 100))
	}
	return nil
}

// Next returns the first beginning after LastAt, in Unix milliseconds; 0 if there
// is none.
func (s Schedule) Next() int64 {
	cron, err := ParseCron(s.Cron)
	if err != nil {
		return 0
	}
	if t := cron.Next(time.UnixMilli(s.LastAt)); !t.IsZero() {
		return t.UnixMilli()
	}
	return 0
}

// Ahead reports whether LastAt is so far after now, in Unix milliseconds, that the
// wall clock was wrong when it was carried out. A smaller step back is waited out,
// so that no beginning is carried out twice.
func (s Schedule) Ahead(now int64) bool { return s.LastAt-now > clockReset }

// Due returns the beginning that is to be dealt with at now, in Unix milliseconds;
// 0 for none. Of several that were missed it is the latest. Late reports whether
// it is to be left out because the tolerance is over.
func (s Schedule) Due(now int64) (at int64, late bool) {
	at = s.Next()
	if at == 0 || at > now {
		return 0, false
	}
	if cron, err := ParseCron(s.Cron); err == nil {
		if last := cron.Last(time.UnixMilli(now), 8); !last.IsZero() {
			at = max(at, last.UnixMilli())
		}
	}
	return at, now-at > s.ToleranceMs
}
