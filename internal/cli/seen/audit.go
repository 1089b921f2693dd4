// SPDX-License-Identifier: MIT

package seen

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// VerifyAudit reads the whole audit trail and hashes it here. It keeps where the
// trail ends now, and returns that and the checkpoint that was seen before, which
// the trail contains; nil if there was none. The error's code is Conflict if it
// does not contain it (E10).
func (p Place) VerifyAudit(ctx context.Context, c *api.Client) (now fleet.AuditHead, before *fleet.AuditHead, err error) {
	if before, err = p.Audit(); err != nil {
		return now, nil, err
	}
	var chain fleet.AuditChain
	matched := before == nil || before.Size == 0
	for e, err := range api.All(ctx, func(ctx context.Context, page fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
		return c.Audit(ctx, fleet.AuditFilter{}, page)
	}) {
		if err == nil {
			err = chain.Add(e)
		}
		if err != nil {
			return now, before, err
		}
		matched = matched || chain.Size == before.Size && chain.Head == before.Head
	}
	if !matched {
		return now, before, fleet.Errorf(fleet.Conflict, "the audit trail does not contain the checkpoint seen before: entry %d with hash %s; entries were cut off or rewritten", before.Size, before.Head.Short()).
			WithHint("the checkpoint is in %s; was the control plane restored from a backup?", p.auditFile())
	}
	now = chain.Checkpoint()
	return now, before, p.saveAudit(now)
}
