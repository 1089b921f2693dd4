// SPDX-License-Identifier: MIT

package fleet

// Role is what an operator's API key may do; each includes those before it.
type Role string

// The roles of API keys.
const (
	RoleAuditor  Role = "auditor"  // read the audit trail and evidence
	RoleReadonly Role = "readonly" // look at everything but keys
	RoleDeploy   Role = "deploy"   // register releases, run rollouts
	RoleAdmin    Role = "admin"    // machines, keys, trust documents
)

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return r.rank() > 0 }

func (r Role) rank() int {
	switch r {
	case RoleAuditor:
		return 1
	case RoleReadonly:
		return 2
	case RoleDeploy:
		return 3
	case RoleAdmin:
		return 4
	}
	return 0
}

// Includes reports whether a key of role r can do all that one of role other
// can. What each may do, api.Operations says.
func (r Role) Includes(other Role) bool { return other.Valid() && r.rank() >= other.rank() }

// KeyPrefix begins every API key, so that secret scanners know one.
const KeyPrefix = "nfk_"

// Key is an operator's API key, without its secret. Times are Unix
// milliseconds, 0 for never.
type Key struct {
	ID        string `json:"id"`
	Owner     string `json:"owner"`
	Role      Role   `json:"role"`
	Tags      []Tag  `json:"tags,omitempty"` // may touch machines with one of these only; none: all
	CreatedAt int64  `json:"createdAt"`
	ExpiresAt int64  `json:"expiresAt"`
	RevokedAt int64  `json:"revokedAt"`
	LastUsed  int64  `json:"lastUsed"`
}
