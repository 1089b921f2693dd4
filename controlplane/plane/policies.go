// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// maxPolicies bounds how many rollout policies are kept.
const maxPolicies = 200

// Policies returns the rollout policies by name.
func (p *Plane) Policies(ctx context.Context) ([]fleet.RolloutPolicy, error) {
	return p.loop.Store.Policies(ctx)
}

// Policy returns a rollout policy.
func (p *Plane) Policy(ctx context.Context, name string) (fleet.RolloutPolicy, error) {
	return p.loop.Store.Policy(ctx, name)
}

// PutPolicy saves a rollout policy, if its rollouts would be accepted: the error's
// code is Invalid for one that would not, whatever the release, and Conflict if
// there is another one of its name that is not to be replaced. One that is there as
// it is asked for stays, and is returned.
func (p *Plane) PutPolicy(ctx context.Context, c access.Caller, name string, in api.PolicyRequest) (fleet.RolloutPolicy, error) {
	v := fleet.RolloutPolicy{Name: name, Spec: in.Spec, CreatedAt: p.now(), CreatedBy: c.Actor()}
	if err := p.checkPolicy(v); err != nil {
		return v, err
	}
	v.Spec = v.Spec.Defaults()
	err := p.loop.Store.Write(ctx, func(tx *store.Tx) error {
		all, err := tx.Policies(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(o fleet.RolloutPolicy) bool { return o.Name == name })
		switch {
		case i < 0 && len(all) >= maxPolicies:
			return fleet.Errorf(fleet.TooLarge, "there are %d rollout policies already", len(all)).WithHint("delete those that nothing uses")
		case i >= 0 && reflect.DeepEqual(all[i].Spec, v.Spec):
			v = all[i]
			return nil
		case i >= 0 && !in.Replace:
			return fleet.Errorf(fleet.Conflict, "there is a rollout policy %s already", name).
				WithHint("nixfleet policy show %s shows it; --replace puts this one in its place", name)
		}
		event := fleet.AuditEvent{At: v.CreatedAt, Actor: v.CreatedBy, Action: fleet.ActionPolicyPut, Subject: "policy:" + name}
		return errors.Join(tx.PutPolicy(ctx, v), tx.AddAudit(ctx, event))
	})
	return v, err
}

// checkPolicy reports what every rollout by a policy would be refused for.
func (p *Plane) checkPolicy(v fleet.RolloutPolicy) error {
	if err := v.Validate(); err != nil {
		return err
	}
	if err := p.conf.Gates.Check(v.Spec.Gates); err != nil {
		return err
	}
	calendar, _ := v.Spec.Calendar() // Validate has read it
	if calendar.Next(time.UnixMilli(v.CreatedAt)).IsZero() {
		return fleet.Errorf(fleet.Invalid, "policy %s: its blackouts leave no time in which a machine may begin", v.Name)
	}
	return nil
}

// DeletePolicy forgets a rollout policy, and returns it. Rollouts that were made
// from it stay as they are. The error's code is Conflict for one that a schedule
// uses.
func (p *Plane) DeletePolicy(ctx context.Context, c access.Caller, name string) (fleet.RolloutPolicy, error) {
	var v fleet.RolloutPolicy
	event := fleet.AuditEvent{At: p.now(), Actor: c.Actor(), Action: fleet.ActionPolicyDelete, Subject: "policy:" + fleet.CleanLine(name, 40)}
	err := p.loop.Store.WriteAudited(ctx, event, func(tx *store.Tx) (err error) {
		if v, err = tx.Policy(ctx, name); err != nil {
			return err
		}
		all, err := tx.Schedules(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(s fleet.Schedule) bool { return s.Policy == name }); i >= 0 {
			return fleet.Errorf(fleet.Conflict, "schedule %s rolls out by policy %s", all[i].Name, name).WithHint("nixfleet schedule delete %s", all[i].Name)
		}
		return tx.DeletePolicy(ctx, name)
	})
	return v, err
}
