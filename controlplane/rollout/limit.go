// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"maps"

	"github.com/arcanesys/nixfleet/fleet"
)

// failures are the machines that have failed, by name.
func (st *step) failures() []fleet.Assignment { return st.matching(st.indexed().failed, hasFailed) }

func hasFailed(a fleet.Assignment) bool { return a.State.Failure() }

// judgeLimits stops the rollout when too many of the machines that are done failed
// in one way, once there are enough of them to tell.
func (st *step) judgeLimits() {
	limits := st.spec().FailureLimits
	if len(limits) == 0 || st.rollout.State != fleet.RolloutRunning {
		return
	}
	failed, t := st.failures(), st.total()
	done := t.Healthy + t.Failed
	for _, l := range limits {
		n := 0
		for i, count := range countFailures(l, failed) {
			n += max(0, count-st.batches[i].AcknowledgedBy[l.Type])
		}
		if tolerated := l.Max.Tolerates(done); done >= l.MinSample && n > tolerated {
			st.failBatch(st.rollout.Batch, fmt.Sprintf("%d of the %d machines that are done failed by %s, %d tolerated%s", n, done, l.Type, tolerated, st.cause()))
			return
		}
	}
}

// countFailures counts the failures that a limit is about, by batch.
func countFailures(l fleet.FailureLimit, failed []fleet.Assignment) map[int]int {
	counts := map[int]int{}
	for _, a := range failed {
		if l.Matches(a) {
			counts[a.Batch]++
		}
	}
	return counts
}

// acknowledgeTypes lets the failures that there are no longer count, by type.
func (st *step) acknowledgeTypes() {
	if len(st.spec().FailureLimits) == 0 {
		return
	}
	failed := st.failures()
	for i := range st.batches {
		st.batches[i].AcknowledgedBy = nil
	}
	for _, l := range st.spec().FailureLimits {
		for i, n := range countFailures(l, failed) {
			b := &st.batches[i]
			if b.AcknowledgedBy == nil {
				b.AcknowledgedBy = map[string]int{}
			}
			b.AcknowledgedBy[l.Type] = n
		}
	}
}

// acknowledgeLess is for a failure that goes away: of each type one more counts
// again, which is rather too strict than too lax.
func acknowledgeLess(b *fleet.Batch) {
	b.AcknowledgedBy = maps.Clone(b.AcknowledgedBy)
	for t, n := range b.AcknowledgedBy {
		b.AcknowledgedBy[t] = max(0, n-1)
	}
}
