// SPDX-License-Identifier: MIT

package fleet

// RolloutPolicy is a named preset of a rollout's spec: everything but its release
// and its name. It is frozen into each rollout that is made from it: a policy that is
// replaced or deleted changes no rollout.
type RolloutPolicy struct {
	Name      string      `json:"name"`
	Spec      RolloutSpec `json:"spec"`
	CreatedAt int64       `json:"createdAt"` // Unix milliseconds
	CreatedBy string      `json:"createdBy"` // actor
}

// Validate reports the first thing wrong with a policy: what its rollouts would be
// refused for, whatever their release. The code is Invalid.
func (p RolloutPolicy) Validate() error {
	switch {
	case !gateName.MatchString(p.Name):
		return Errorf(Invalid, "%q is not the name of a policy", clip(p.Name, 60)).WithHint("lower case letters, digits and '-', up to 40")
	case p.Spec.Release != "" || p.Spec.Name != "" || p.Spec.Policy != "" || p.Spec.CatchUpOf != "":
		return Errorf(Invalid, "policy %s: a policy has no release, no rollout's name and no other policy", p.Name)
	}
	return p.For(SHA256(nil), "").Validate()
}

// For is the spec of a rollout of a release by this policy.
func (p RolloutPolicy) For(release Digest, name string) RolloutSpec {
	s := p.Spec.Defaults()
	s.Release, s.Name, s.Policy = release, name, p.Name
	return s
}
