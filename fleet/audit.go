// SPDX-License-Identifier: MIT

package fleet

import (
	"encoding/json"
	"strconv"
)

// AuditEvent is something that was done to the fleet, by whom and when.
type AuditEvent struct {
	At      int64             `json:"at"`    // Unix milliseconds
	Actor   string            `json:"actor"` // key:alice, machine:web-01, control-plane
	Action  string            `json:"action"`
	Subject string            `json:"subject"` // rollout:01J..., machine:web-01
	Detail  map[string]string `json:"detail,omitempty"`
}

// The actions that are audited.
const (
	ActionBootstrap         = "key.bootstrap"
	ActionKeyCreate         = "key.create"
	ActionKeyRotate         = "key.rotate"
	ActionKeyRevoke         = "key.revoke"
	ActionTokenCreate       = "token.create"
	ActionMachineRegister   = "machine.register"
	ActionMachineEnroll     = "machine.enroll"
	ActionMachineRenew      = "machine.renew"
	ActionMachineRenewLate  = "machine.renew-late"
	ActionMachineKey        = "machine.key"
	ActionMachineEvidence   = "machine.evidence-key"
	ActionMachineLifecycle  = "machine.lifecycle"
	ActionMachineTags       = "machine.tags"
	ActionMachineAdopt      = "machine.adopt"
	ActionMachineRename     = "machine.rename"
	ActionMachineDelete     = "machine.delete"
	ActionReportOutcome     = "report.outcome"
	ActionReleaseCreate     = "release.create"
	ActionReleaseDelete     = "release.delete"
	ActionTrustRoot         = "trust.root"
	ActionTrustRevocations  = "trust.revocations"
	ActionTrustTimestamp    = "trust.timestamp"
	ActionTrustGrant        = "trust.grant"
	ActionRolloutCreate     = "rollout.create"
	ActionRolloutPause      = "rollout.pause"
	ActionRolloutResume     = "rollout.resume"
	ActionRolloutCancel     = "rollout.cancel"
	ActionRolloutApprove    = "rollout.approve"
	ActionRolloutRetry      = "rollout.retry"
	ActionRolloutSkip       = "rollout.skip"
	ActionRolloutRevert     = "rollout.revert"
	ActionRolloutComplete   = "rollout.complete"
	ActionRolloutFail       = "rollout.fail"
	ActionRolloutSupersede  = "rollout.supersede"
	ActionRolloutDelete     = "rollout.delete"
	ActionPolicyPut         = "policy.put"
	ActionPolicyDelete      = "policy.delete"
	ActionSchedulePut       = "schedule.put"
	ActionScheduleDelete    = "schedule.delete"
	ActionScheduleRun       = "schedule.run"
	ActionScheduleSkip      = "schedule.skip"
	ActionBudgetPut         = "budget.put"
	ActionBudgetDelete      = "budget.delete"
	ActionGateAnswer        = "gate.answer"
	ActionWebhookCreate     = "webhook.create"
	ActionWebhookDelete     = "webhook.delete"
	ActionWebhookResend     = "webhook.resend"
	ActionFleetFreeze       = "fleet.freeze"
	ActionFleetUnfreeze     = "fleet.unfreeze"
	ActionBatchOpen         = "batch.open"
	ActionBatchPass         = "batch.pass"
	ActionBatchFail         = "batch.fail"
	ActionControlPlaneStart = "control-plane.start"
	// The wall clock moved by more than 30 seconds against the time in which the
	// control plane ran (H20).
	ActionControlPlaneClock = "control-plane.clock"
	// The database was found older than what the fleet has seen (E12), and an
	// operator went on with it.
	ActionControlPlaneRestored = "control-plane.restored"
	ActionControlPlaneAccept   = "control-plane.accept"
	// The oldest entries of the trail were removed, as the retention says. What this
	// entry says of them is where the rest begins (AuditCut).
	ActionAuditCut = "audit.cut"
)

// Actions are all actions that are audited.
var Actions = [...]string{
	ActionBootstrap, ActionKeyCreate, ActionKeyRotate, ActionKeyRevoke, ActionTokenCreate, ActionMachineRegister, ActionMachineEnroll,
	ActionMachineRenew, ActionMachineRenewLate, ActionMachineKey, ActionMachineEvidence, ActionMachineLifecycle, ActionMachineTags, ActionMachineAdopt,
	ActionMachineRename, ActionMachineDelete, ActionReportOutcome, ActionReleaseCreate, ActionReleaseDelete, ActionTrustRoot, ActionTrustRevocations,
	ActionTrustTimestamp, ActionTrustGrant, ActionRolloutCreate, ActionRolloutPause, ActionRolloutResume, ActionRolloutCancel, ActionRolloutApprove,
	ActionRolloutRetry, ActionRolloutSkip, ActionRolloutRevert, ActionRolloutComplete, ActionRolloutFail, ActionRolloutSupersede, ActionRolloutDelete,
	ActionPolicyPut, ActionPolicyDelete, ActionSchedulePut, ActionScheduleDelete, ActionScheduleRun, ActionScheduleSkip, ActionBudgetPut,
	ActionBudgetDelete, ActionGateAnswer, ActionWebhookCreate, ActionWebhookDelete, ActionWebhookResend, ActionFleetFreeze, ActionFleetUnfreeze,
	ActionBatchOpen, ActionBatchPass, ActionBatchFail, ActionControlPlaneStart, ActionControlPlaneClock, ActionControlPlaneRestored,
	ActionControlPlaneAccept, ActionAuditCut,
}

// AuditEntry is an event in its chain. Body holds the event's JSON bytes as
// they were hashed; they are kept, never encoded again.
type AuditEntry struct {
	Seq  int64  `json:"seq"` // from 1, without a gap
	Body string `json:"body"`
	Hash Digest `json:"hash"`
}

// AuditHash chains an entry to the one before it; prev is "" for the first.
// The hash covers `nixfleet-audit-v1`, seq and prev, a line each, then the
// body.
func AuditHash(seq int64, prev Digest, body string) Digest {
	return SHA256([]byte("nixfleet-audit-v1\n" + strconv.FormatInt(seq, 10) + "\n" + string(prev) + "\n" + body))
}

// Event decodes the body.
func (e AuditEntry) Event() (AuditEvent, error) {
	var v AuditEvent
	if err := json.Unmarshal([]byte(e.Body), &v); err != nil {
		return AuditEvent{}, Errorf(Invalid, "audit entry %d: body: %w", e.Seq, err)
	}
	return v, nil
}

// AuditChain checks entries as they come, in order, in pages of any size.
type AuditChain struct {
	Size int64  // entries checked
	Head Digest // hash of the last one
}

// Add checks the next entry. The error names the first bad one; what is wrong
// with a chain is that an entry was edited, removed, inserted or reordered
// (E10). The code is Conflict.
func (c *AuditChain) Add(e AuditEntry) error {
	if e.Seq != c.Size+1 {
		return Errorf(Conflict, "audit entry %d is where entry %d should be: entries were removed, inserted or reordered", e.Seq, c.Size+1)
	}
	if want := AuditHash(e.Seq, c.Head, e.Body); e.Hash != want {
		return Errorf(Conflict, "audit entry %d was altered: its hash is %s, and its content gives %s", e.Seq, e.Hash.Short(), want.Short())
	}
	c.Size, c.Head = e.Seq, e.Hash
	return nil
}

// AuditCut is the detail of an ActionAuditCut event, before which the entries up to
// h were removed.
func AuditCut(h AuditHead) map[string]string {
	return map[string]string{"size": strconv.FormatInt(h.Size, 10), "head": string(h.Head)}
}

// CutBy returns what an ActionAuditCut event says: the chain goes on from there. The
// error's code is Conflict.
func CutBy(e AuditEvent) (AuditHead, error) {
	size, err := strconv.ParseInt(e.Detail["size"], 10, 64)
	h := AuditHead{Size: size, Head: Digest(e.Detail["head"])}
	if err != nil || size < 1 || !h.Head.Valid() {
		return AuditHead{}, Errorf(Conflict, "an %s event of the audit trail does not say where the trail begins: size %.20q, head %.80q", ActionAuditCut, e.Detail["size"], e.Detail["head"])
	}
	return h, nil
}

// Checkpoint is where the chain stands.
func (c AuditChain) Checkpoint() AuditHead { return AuditHead(c) }
