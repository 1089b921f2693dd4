// SPDX-License-Identifier: MIT

// Package hostile contains the attacker: whoever holds the control plane, the
// network, the cache, or some of the keys. Each test ends with a refusal that has
// a reason, and an unchanged machine.
package hostile
