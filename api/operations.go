// SPDX-License-Identifier: MIT

package api

import (
	"net/http"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// Operation is one call of the operators' API. The server serves exactly
// Operations, and to those only whom its row names; the OpenAPI document is
// generated from it.
type Operation struct {
	ID      string // as in the OpenAPI document
	Method  string
	Path    string // with {parameters}
	Scope   Scope
	Roles   []fleet.Role // of the keys that may do it; none for public
	Status  int          // of success
	Summary string
}

// Scope says whom an operation is open to beside its roles.
type Scope string

// The scopes.
const (
	Public    Scope = "public"     // open without a key
	Scoped    Scope = "scoped"     // a key that is limited to tags does it for machines with one of them, and sees no others
	FleetWide Scope = "fleet-wide" // about the whole fleet: not for a key that is limited to tags
)

// Valid reports whether s is one of the scopes.
func (s Scope) Valid() bool {
	switch s {
	case Public, Scoped, FleetWide:
		return true
	}
	return false
}

// Allows reports whether keys of a role may do it: those that the row names,
// and no others.
func (o Operation) Allows(role fleet.Role) bool { return slices.Contains(o.Roles, role) }

// The roles that operations are open to. A new role is in none of them.
var (
	everyone  = []fleet.Role{fleet.RoleAuditor, fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin}
	readers   = []fleet.Role{fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin}
	deployers = []fleet.Role{fleet.RoleDeploy, fleet.RoleAdmin}
	admins    = []fleet.Role{fleet.RoleAdmin}
)

// Operations lists every call of the operators' API, in the order of the
// documentation.
var Operations = [...]Operation{
	{"info", http.MethodGet, "/api/v1/info", Public, nil, 200, "Version, fleet and state of the control plane"},

	{"bootstrapKey", http.MethodPost, "/api/v1/keys/bootstrap", Public, nil, 201, "First admin key, for the one-time secret"},
	{"whoami", http.MethodGet, "/api/v1/keys/self", Scoped, everyone, 200, "The key that makes this call"},
	{"listKeys", http.MethodGet, "/api/v1/keys", Scoped, admins, 200, "API keys, without their secrets"},
	{"createKey", http.MethodPost, "/api/v1/keys", Scoped, admins, 201, "New API key; its secret is shown once"},
	{"rotateKey", http.MethodPost, "/api/v1/keys/{id}/rotate", Scoped, admins, 201, "New secret for a key; the old one ends"},
	{"revokeKey", http.MethodDelete, "/api/v1/keys/{id}", Scoped, admins, 200, "End a key"},

	{"getRoot", http.MethodGet, "/api/v1/trust/root", Scoped, readers, 200, "The root document that releases are checked against"},
	{"putRoot", http.MethodPut, "/api/v1/trust/root", FleetWide, admins, 200, "Pin the first root document, or its successor"},
	{"putRevocations", http.MethodPut, "/api/v1/trust/revocations", FleetWide, admins, 200, "Newer revocation list, signed by the revoker role"},
	{"getRevocations", http.MethodGet, "/api/v1/trust/revocations", Scoped, readers, 200, "The newest revocation list, also one by keys that have lost the role"},
	{"putTimestamp", http.MethodPut, "/api/v1/trust/timestamp", FleetWide, deployers, 200, "Newer timestamp, signed by the timestamp role"},
	{"getTimestamp", http.MethodGet, "/api/v1/trust/timestamp", Scoped, readers, 200, "The current timestamp"},
	{"putGrant", http.MethodPut, "/api/v1/trust/grants", FleetWide, deployers, 200, "Grant of at most 24 hours, signed by the operator role"},

	{"listReleases", http.MethodGet, "/api/v1/releases", Scoped, readers, 200, "Releases, newest first"},
	{"createRelease", http.MethodPost, "/api/v1/releases", Scoped, deployers, 201, "Register a signed release"},
	{"getRelease", http.MethodGet, "/api/v1/releases/{digest}", Scoped, readers, 200, "A release: signed envelope and entries"},
	{"diffReleases", http.MethodGet, "/api/v1/releases/{digest}/diff/{other}", Scoped, readers, 200, "What changes from one release to another"},
	{"deleteRelease", http.MethodDelete, "/api/v1/releases/{digest}", Scoped, admins, 200, "Forget a release that nothing uses"},

	{"listLines", http.MethodGet, "/api/v1/lines", Scoped, readers, 200, "Lines, by name, each with its newest release's signed header"},
	{"getLine", http.MethodGet, "/api/v1/lines/{line}", Scoped, readers, 200, "A line's newest release: its signed header, also when it was deleted"},

	{"listMachines", http.MethodGet, "/api/v1/machines", Scoped, readers, 200, "Machines, by id"},
	{"registerMachine", http.MethodPost, "/api/v1/machines", Scoped, admins, 201, "Make a machine known before it enrols"},
	{"getMachine", http.MethodGet, "/api/v1/machines/{id}", Scoped, readers, 200, "A machine"},
	{"machineReports", http.MethodGet, "/api/v1/machines/{id}/reports", Scoped, readers, 200, "What a machine reported, newest first"},
	{"setLifecycle", http.MethodPut, "/api/v1/machines/{id}/lifecycle", Scoped, admins, 200, "Set a machine's lifecycle"},
	{"setTags", http.MethodPut, "/api/v1/machines/{id}/tags", Scoped, admins, 200, "Set the operators' tags of a machine"},
	{"renameMachine", http.MethodPost, "/api/v1/machines/{id}/rename", Scoped, admins, 200, "Give a machine another name, under which it enrols anew"},
	{"deleteMachine", http.MethodDelete, "/api/v1/machines/{id}", Scoped, admins, 200, "Forget a machine that has never enrolled"},
	{"createToken", http.MethodPost, "/api/v1/machines/{id}/token", Scoped, admins, 201, "One-time enrolment token; shown once"},
	{"adoptMachine", http.MethodPost, "/api/v1/machines/{id}/adopt", Scoped, admins, 200, "Accept a machine that came with a good certificate"},

	{"listRollouts", http.MethodGet, "/api/v1/rollouts", Scoped, readers, 200, "Rollouts, newest first"},
	{"createRollout", http.MethodPost, "/api/v1/rollouts", Scoped, deployers, 201, "Start a rollout, or only plan it (dryRun)"},
	{"getRollout", http.MethodGet, "/api/v1/rollouts/{id}", Scoped, readers, 200, "A rollout with its batches"},
	{"listAssignments", http.MethodGet, "/api/v1/rollouts/{id}/assignments", Scoped, readers, 200, "A rollout's machines"},
	{"rolloutVerb", http.MethodPost, "/api/v1/rollouts/{id}/{verb}", Scoped, deployers, 200, "pause, resume, cancel, approve, retry, skip or revert"},
	{"rolloutEvents", http.MethodGet, "/api/v1/rollouts/{id}/events", Scoped, readers, 200, "What happened in a rollout, oldest first, as far as the event log goes"},
	{"explainRollout", http.MethodGet, "/api/v1/rollouts/{id}/waiting", Scoped, readers, 200, "What a rollout waits for: why, and by when"},
	{"deleteRollout", http.MethodDelete, "/api/v1/rollouts/{id}", Scoped, admins, 200, "Forget a rollout that has ended"},

	{"putPolicy", http.MethodPut, "/api/v1/policies/{name}", FleetWide, admins, 200, "Save a preset of rollouts"},
	{"listPolicies", http.MethodGet, "/api/v1/policies", Scoped, readers, 200, "Presets of rollouts"},
	{"getPolicy", http.MethodGet, "/api/v1/policies/{name}", Scoped, readers, 200, "A preset of rollouts"},
	{"deletePolicy", http.MethodDelete, "/api/v1/policies/{name}", FleetWide, admins, 200, "Forget a preset of rollouts"},

	{"putSchedule", http.MethodPut, "/api/v1/schedules/{name}", FleetWide, deployers, 200, "Save when rollouts begin by themselves"},
	{"listSchedules", http.MethodGet, "/api/v1/schedules", Scoped, readers, 200, "When rollouts begin by themselves"},
	{"deleteSchedule", http.MethodDelete, "/api/v1/schedules/{name}", FleetWide, deployers, 200, "Forget when rollouts begin by themselves"},

	{"putBudget", http.MethodPut, "/api/v1/budgets/{name}", FleetWide, admins, 200, "Bound how many machines are disrupted at once, over all rollouts"},
	{"listBudgets", http.MethodGet, "/api/v1/budgets", FleetWide, readers, 200, "Disruption budgets, as they stand"},
	{"deleteBudget", http.MethodDelete, "/api/v1/budgets/{name}", FleetWide, admins, 200, "Forget a disruption budget"},

	{"listGates", http.MethodGet, "/api/v1/gates", Scoped, readers, 200, "Gates that rollouts can name, without their addresses"},

	{"setFreeze", http.MethodPut, "/api/v1/freeze", FleetWide, deployers, 200, "Order no machine of the fleet anything new"},
	{"getFreeze", http.MethodGet, "/api/v1/freeze", Scoped, readers, 200, "What keeps the fleet from being ordered anything new"},
	{"endFreeze", http.MethodDelete, "/api/v1/freeze", FleetWide, deployers, 200, "Let rollouts go on"},

	{"listWebhooks", http.MethodGet, "/api/v1/webhooks", FleetWide, admins, 200, "Receivers of what is audited, by id"},
	{"createWebhook", http.MethodPost, "/api/v1/webhooks", FleetWide, admins, 201, "New receiver of what is audited; its secret is shown once"},
	{"testWebhook", http.MethodPost, "/api/v1/webhooks/{id}/test", FleetWide, admins, 200, "Send a test message now"},
	{"webhookMessages", http.MethodGet, "/api/v1/webhooks/{id}/messages", FleetWide, admins, 200, "Messages that wait, or dead letters, by audit entry"},
	{"resendMessages", http.MethodPost, "/api/v1/webhooks/{id}/resend", FleetWide, admins, 200, "Try dead letters again"},
	{"deleteWebhook", http.MethodDelete, "/api/v1/webhooks/{id}", FleetWide, admins, 200, "Forget a receiver and its messages"},

	{"events", http.MethodGet, "/api/v1/events", Scoped, readers, 200, "Changes as server-sent events"},

	{"listAudit", http.MethodGet, "/api/v1/audit", FleetWide, everyone, 200, "The audit trail, oldest first"},
	{"auditHead", http.MethodGet, "/api/v1/audit/head", Scoped, everyone, 200, "Size and head of the audit chain"},
	{"exportAudit", http.MethodGet, "/api/v1/audit.csv", FleetWide, everyone, 200, "The audit trail as CSV, safe for spreadsheets"},
}
