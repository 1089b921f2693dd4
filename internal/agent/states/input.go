// SPDX-License-Identifier: MIT

package states

import (
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Input is something that happened: an order, or how an effect ended.
type Input interface{ input() }

// Inputs from outside.
type (
	// Ordered is an order for an idle agent, or one to revert the release that
	// it is verifying.
	Ordered struct{ Order Order }
	// Withdrawn says that the order at work is no longer given.
	Withdrawn struct{}
	// Observed is what an idle agent sees of its machine.
	Observed struct{ fleet.Generations }
	// Learned is the trust state after documents that were fetched lately.
	Learned struct {
		Trust     trust.State
		Documents fleet.DocumentDigests
	}
	// Adopted is the floor that a person on the machine vouches for.
	Adopted struct{ Floor trust.Floor }
	// Rebooted says that the machine was booted since the last input.
	Rebooted struct{ fleet.Generations }
	// WatchdogFired says that the watchdog rolled the machine back.
	WatchdogFired struct {
		fleet.Generations
		Message string
	}
)

// Ends of effects.
type (
	// Done says that the effect of any step without a result of its own
	// succeeded.
	Done struct{}
	// Failed says that an effect did not succeed; Again that it may be tried
	// again.
	Failed struct {
		Reason  fleet.Reason
		Message string
		Again   bool
	}
	// Held says that an attempt cannot begin now, and why.
	Held struct{ Why string }
	// Replaced ends Fetch as Done does: the system is as signed, after these paths,
	// which are named with their hashes, were replaced.
	Replaced struct{ Paths []string }
	// Accepted ends Judge: the release may be fetched.
	Accepted struct{ Release trust.Accepted }
	// Refused ends Judge or Fetch: the trust rules forbid the release.
	Refused struct {
		Reason  fleet.Reason
		Message string
	}
	// Prepared ends Prepare.
	Prepared struct {
		fleet.Generations
		FailedUnits []string
		Baseline    []string
		Reboot      bool // the target's fingerprints want one
		MayReboot   bool // the machine's policy allows it, now or later
		// Confirm is the machine's own limit for confirming, in seconds; the
		// release's is never exceeded.
		Confirm float64
	}
	// Switched ends Switch and RollbackSwitch.
	Switched struct {
		fleet.Generations
		Code        int  // own exit code of the switch; -1: it left none
		TimedOut    bool // it did not end in time and was killed
		FailedUnits []string
		Message     string // the end of its output, if it failed
	}
	// Confirmed ends Confirm: By answered.
	Confirmed struct{ By string }
	// Unconfirmed ends Confirm: nothing answered in time.
	Unconfirmed struct{ Message string }
	// Healthy ends Verify: the required checks passed for as long as the order
	// wants.
	Healthy struct {
		Checks      []fleet.HealthCheckResult
		FailedUnits []string
	}
	// Unhealthy ends Verify.
	Unhealthy struct {
		Reason  fleet.Reason
		Message string
		Checks  []fleet.HealthCheckResult
	}
)

func (Ordered) input()       {}
func (Withdrawn) input()     {}
func (Observed) input()      {}
func (Learned) input()       {}
func (Adopted) input()       {}
func (Rebooted) input()      {}
func (WatchdogFired) input() {}
func (Done) input()          {}
func (Failed) input()        {}
func (Held) input()          {}
func (Accepted) input()      {}
func (Refused) input()       {}
func (Replaced) input()      {}
func (Prepared) input()      {}
func (Switched) input()      {}
func (Confirmed) input()     {}
func (Unconfirmed) input()   {}
func (Healthy) input()       {}
func (Unhealthy) input()     {}
