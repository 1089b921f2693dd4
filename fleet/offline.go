// SPDX-License-Identifier: MIT

package fleet

// OfflinePolicy says what to do with a machine that does not answer.
type OfflinePolicy string

// The offline policies. Machine.Offline says what offline means; an offline
// machine holds no slot.
const (
	OfflineWait OfflinePolicy = "wait" // its batch waits for it, and says so
	OfflineSkip OfflinePolicy = "skip" // goes on without it; it catches up when it is online again (Behind)
	OfflineFail OfflinePolicy = "fail" // counts as failed
)

// Valid reports whether p is one of the policies.
func (p OfflinePolicy) Valid() bool {
	switch p {
	case OfflineWait, OfflineSkip, OfflineFail:
		return true
	}
	return false
}

// Behind says that a rollout has completed without a machine because it was
// offline, or joined too late for its plan (RolloutRules.LateJoiners). Once it is online again, the control plane makes a rollout for it and
// others like it, to its line's newest completed release. A machine that comes to an
// end in any rollout, or that an operator skips, has nothing to catch up with.
type Behind struct {
	Rollout RolloutID `json:"rollout"` // that went on without it
	Line    Line      `json:"line"`    // of that rollout's release
	Since   int64     `json:"since"`   // when that rollout completed
	Why     string    `json:"why"`     // why it has not caught up yet
}
