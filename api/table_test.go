// SPDX-License-Identifier: MIT

package api_test

import (
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Each row is whole: an operation that is open to anybody says so, and a role
// that includes another one may do what that may.
func TestOperations_SayWhoMayDoThem(t *testing.T) {
	roles := []fleet.Role{fleet.RoleAuditor, fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin}
	ids, routes := map[string]bool{}, map[string]bool{}
	for _, op := range api.Operations {
		route := op.Method + " " + op.Path
		if ids[op.ID] || routes[route] {
			t.Errorf("%s is listed twice", op.ID)
		}
		ids[op.ID], routes[route] = true, true
		if !op.Scope.Valid() || (op.Scope == api.Public) != (len(op.Roles) == 0) {
			t.Errorf("%s has scope %q and the roles %v", op.ID, op.Scope, op.Roles)
		}
		for _, r := range op.Roles {
			if !r.Valid() {
				t.Errorf("%s names the role %q", op.ID, r)
			}
		}
		for _, r := range roles {
			for _, other := range roles {
				if r.Includes(other) && op.Allows(other) && !op.Allows(r) {
					t.Errorf("%s is open to %s and not to %s, which includes it", op.ID, other, r)
				}
			}
		}
		if op.Allows("") || op.Allows("owner") {
			t.Errorf("%s is open to a role that there is not", op.ID)
		}
	}
	for _, id := range []string{"info", "bootstrapKey"} {
		if !ids[id] {
			t.Errorf("there is no %s", id)
		}
	}
}

// The auditor reads the audit trail, and nothing else of the fleet.
func TestOperations_ShowTheAuditorTheAuditTrailOnly(t *testing.T) {
	may := map[string]bool{"whoami": true, "listAudit": true, "auditHead": true, "exportAudit": true}
	for _, op := range api.Operations {
		if op.Allows(fleet.RoleAuditor) != may[op.ID] {
			t.Errorf("%s: open to the auditor is %t", op.ID, op.Allows(fleet.RoleAuditor))
		}
	}
}
