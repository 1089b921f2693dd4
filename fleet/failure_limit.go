// SPDX-License-Identifier: MIT

package fleet

import (
	"strconv"
	"strings"
)

// FailureLimit is what a rollout tolerates of one type of failure, beside
// MaxFailures: of the machines that are done, healthy or failed.
type FailureLimit struct {
	Type string `json:"type"` // a state such as rolled-back, or a reason code
	Max  Amount `json:"max"`  // a percentage is rounded down
	// MinSample is how many machines have to be done before the limit counts.
	MinSample int `json:"minSample"`
}

const failureLimitHint = `such as rolled-back=10%/20: at most 10% of the machines that are done, once 20 are; the type is failed, refused, rolled-back, rollback-failed or a reason code`

// ParseFailureLimit reads "rolled-back=10%/20": type, amount, and after a slash how
// many machines have to be done; 1 if it is left out. The error's code is Invalid.
func ParseFailureLimit(text string) (l FailureLimit, err error) {
	kind, rest, ok := strings.Cut(text, "=")
	amount, sample, sampled := strings.Cut(rest, "/")
	l = FailureLimit{Type: kind, MinSample: 1}
	if l.Max, err = ParseAmount(amount); err == nil && sampled {
		l.MinSample, err = strconv.Atoi(sample)
	}
	if err != nil || !ok {
		return l, Errorf(Invalid, "%q is not a limit of failures", clip(text, 60)).WithHint("%s", failureLimitHint)
	}
	return l, l.validate()
}

func (l FailureLimit) validate() error {
	s := AssignmentState(l.Type)
	if (!s.Failure() || s == AssignReverted) && !Reason(l.Type).Valid() {
		return Errorf(Invalid, "rollout: %q is not a type of failure", clip(l.Type, 40)).WithHint("%s", failureLimitHint)
	}
	if l.MinSample < 1 || l.MinSample > MaxEntries {
		return Errorf(Invalid, "rollout: a sample of %d machines for %s must be between 1 and %d", l.MinSample, l.Type, MaxEntries)
	}
	return nil
}

// Matches reports whether a failure is of the limit's type.
func (l FailureLimit) Matches(a Assignment) bool {
	return string(a.State) == l.Type || string(a.Reason) == l.Type
}
