// SPDX-License-Identifier: MIT

// Package hostile contains the attacker: whoever holds the control plane, the
// network, the cache, a machine, a clock, or some of the keys.
//
// Attacks are rows of a table: what the attacker holds, where he uses it, what he
// does, and how it is refused. A stage says which state is compared before and
// after each of its rows, and shows first that the comparison sees an honest
// change. Stages are real: an agent on a real systemd, a control plane with its
// listeners and its store. `make hostile` counts the rows; NIXFLEET_HOSTILE_RESULT
// names the file for the counts.
//
// The other tests here are the rules of an agent's judgement alone: each ends with
// a refusal that has a reason, and an unchanged state.
package hostile
