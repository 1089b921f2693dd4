// SPDX-License-Identifier: MIT

package fleet

// Budget is a disruption budget: how many of some machines may be disrupted at
// once, over all rollouts. Disrupted are those that are at work in a rollout or
// roll back, are unhealthy or offline, or are in maintenance. It holds back what a
// rollout begins; no machine waits for it to roll back, or to be reverted.
type Budget struct {
	Name      string   `json:"name"`
	Select    []string `json:"select"`    // selector terms, as of a rollout
	Max       Amount   `json:"max"`       // a percentage is rounded down, and is at least one machine
	CreatedAt int64    `json:"createdAt"` // Unix milliseconds
	CreatedBy string   `json:"createdBy"` // actor
}

// Limit is how many of n machines may be disrupted.
func (b Budget) Limit(n int) int { return max(1, b.Max.Tolerates(n)) }

// Validate reports the first thing wrong with b; the code is Invalid.
func (b Budget) Validate() error {
	switch {
	case !gateName.MatchString(b.Name):
		return Errorf(Invalid, "%q is not the name of a budget", clip(b.Name, 60)).WithHint("lower case letters, digits and '-', up to 40")
	case len(b.Select) == 0 || len(b.Select) > 1000:
		return Errorf(Invalid, "budget %s: it needs 1 to 1000 selector terms", b.Name).WithHint("such as @web, web-*, !web-03")
	case b.Max.N < 1:
		return Errorf(Invalid, "budget %s: with a maximum of %s no machine could ever begin", b.Name, b.Max).
			WithHint("nixfleet freeze stops the whole fleet; a blackout stops a rollout")
	}
	if _, err := ParseSelector(b.Select); err != nil {
		return Errorf(Invalid, "budget %s: %w", b.Name, err).WithHint("%s", ErrorHint(err))
	}
	return nil
}
