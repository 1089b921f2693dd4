// SPDX-License-Identifier: MIT

package api

import "github.com/arcanesys/nixfleet/fleet"

// Paths of the agents' listener. All but enrol want the machine's client
// certificate, whose common name is the machine id.
const (
	PathCheckIn   = "/agent/v1/check-in"   // POST CheckIn -> Orders; held up to WaitMs
	PathReports   = "/agent/v1/reports"    // POST Reports -> ReportsReply
	PathRelease   = "/agent/v1/releases/"  // GET + digest -> trust bundle for this machine
	PathDocument  = "/agent/v1/documents/" // GET + digest -> envelope
	PathRoot      = "/agent/v1/roots/"     // GET + version -> envelope, to follow the chain
	PathEvidence  = "/agent/v1/evidence"
	PathEnroll    = "/agent/v1/enroll"
	PathRenew     = "/agent/v1/renew"
	MaxWaitMs     = 300_000
	DefaultWaitMs = 55_000
	MaxRiding     = 32 // reports that come with a check-in
)

// CheckIn is what an agent says of itself when it asks what to do.
type CheckIn struct {
	Machine      fleet.MachineID           `json:"machine"`
	AgentVersion string                    `json:"agentVersion"`
	System       fleet.System              `json:"system"`
	Line         fleet.Line                `json:"line"`
	BootID       string                    `json:"bootId"`
	State        fleet.AgentState          `json:"state"`
	Waiting      string                    `json:"waiting,omitempty"` // why an idle agent waits
	Tags         []fleet.Tag               `json:"tags,omitempty"`    // declared by the running system; shown, and count for nothing
	Drift        bool                      `json:"drift,omitempty"`
	RunsRelease  fleet.Digest              `json:"runsRelease,omitempty"` // accepted release whose path runs
	Checks       []fleet.HealthCheckResult `json:"checks,omitempty"`
	Documents    fleet.DocumentDigests     `json:"documents"`             // that the agent holds
	EvidenceKey  fleet.EvidenceKey         `json:"evidenceKey,omitempty"` // counts once, for a machine that has none
	Epoch        string                    `json:"epoch,omitempty"`       // of the last reply, echoed
	Have         string                    `json:"have,omitempty"`        // etag of the orders it knows
	WaitMs       int64                     `json:"waitMs"`                // hold the reply until there are other orders; 0: answer now
	PollMs       int64                     `json:"pollMs,omitempty"`      // until the next check-in at the latest, if this one is not held
	NeedsReboot  bool                      `json:"needsReboot,omitempty"` // the boot default runs whole only after a reboot
	// Inventory is sent when it is another than the last that was answered; nil: no
	// change, or an agent that says none.
	Inventory *fleet.Inventory `json:"inventory,omitempty"`
	// Reports are queued ones, oldest first, at most MaxRiding. A check-in that carries
	// some is answered at once, and Orders.Reports says what became of them.
	Reports []fleet.Report `json:"reports,omitempty"`
	fleet.Generations
}

// Orders is what an agent may do now. Nothing in it grants authority: what it
// names has to pass the agent's own trust rules.
type Orders struct {
	Etag        string                `json:"etag"`
	Epoch       string                `json:"epoch,omitempty"`
	Prefetch    fleet.Digest          `json:"prefetch,omitempty"` // may be fetched and verified, not activated
	Apply       *fleet.Order          `json:"apply,omitempty"`
	Revert      *fleet.Order          `json:"revert,omitempty"`
	Documents   fleet.DocumentDigests `json:"documents"`
	Grants      []fleet.Digest        `json:"grants,omitempty"` // for this machine, in force now
	PollAfterMs int64                 `json:"pollAfterMs"`      // for an agent that does not hold a long poll
	WaitMs      int64                 `json:"waitMs"`           // that the agent should ask for
	// Reports acknowledges those of the check-in. nil: none of them was taken in, by an
	// older control plane or because the machine sends too many; they go to PathReports.
	Reports *ReportsReply `json:"reports,omitempty"`
	LeftOut []string      `json:"-"` // what could not be read, for people; see UnmarshalJSON
}

// Reports carries queued reports, oldest first.
type Reports struct {
	Reports []fleet.Report `json:"reports"`
}

// ReportsReply acknowledges reports that are durable now, by id. Rejected ones are
// not stored and must not be sent again; Reasons says why, by id. An agent deletes
// only what is accepted, and sets the rejected ones aside: an older control plane
// may not understand what a newer agent reports. A request that is refused as a whole
// as invalid or too large is sent again in parts, until one report is left to reject.
type ReportsReply struct {
	Accepted []string          `json:"accepted"`
	Rejected []string          `json:"rejected"`
	Reasons  map[string]string `json:"reasons,omitempty"`
}

// EnrollRequest asks for the machine's first certificate.
type EnrollRequest struct {
	Token string `json:"token"`
	CSR   []byte `json:"csr"` // PKCS #10, DER; its common name is the machine id
}

// RenewRequest asks for the next certificate, over the present one.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// Certificate is the machine's new identity and what to verify the control
// plane with.
type Certificate struct {
	Certificate []byte          `json:"certificate"` // DER
	CA          []byte          `json:"ca"`          // DER, of the server's certificate
	Machine     fleet.MachineID `json:"machine"`
	NotAfter    int64           `json:"notAfter"` // Unix milliseconds
}
