// SPDX-License-Identifier: MIT

package api

import (
	"net/url"
	"strconv"

	"github.com/arcanesys/nixfleet/fleet"
)

// How many items a page has: DefaultLimit unless asked, and at most MaxLimit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// PageQuery asks for one page: Cursor is Next of the page before, Limit 0 for
// DefaultLimit.
type PageQuery struct {
	Cursor string
	Limit  int
}

// ReleaseQuery selects releases. Empty fields do not select.
type ReleaseQuery struct {
	Line    fleet.Line
	Machine fleet.MachineID // that has an entry
	PageQuery
}

// MachineQuery selects machines. Empty fields do not select.
type MachineQuery struct {
	Tag       fleet.Tag // among the effective ones
	Lifecycle fleet.Lifecycle
	Health    fleet.Health
	Release   fleet.Digest // that it runs
	Drift     bool         // runs something else than was activated
	Offline   bool         // not heard of
	PageQuery
}

// RolloutQuery selects rollouts. Empty fields do not select.
type RolloutQuery struct {
	State   fleet.RolloutState
	Release fleet.Digest
	Active  bool // those that have not ended
	PageQuery
}

// AuditQuery selects audit entries. Empty fields do not select; times are Unix
// milliseconds, Since included and Until not.
type AuditQuery struct {
	Actor   string
	Action  string
	Subject string
	Since   int64
	Until   int64
	PageQuery
}

// EventQuery selects events. Empty fields do not select.
type EventQuery struct {
	Rollout fleet.RolloutID
	Machine fleet.MachineID
}

// set adds a parameter unless its value is empty.
func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func setInt(q url.Values, name string, value int64) {
	if value != 0 {
		q.Set(name, strconv.FormatInt(value, 10))
	}
}

func setBool(q url.Values, name string, value bool) {
	if value {
		q.Set(name, "true")
	}
}

func (p PageQuery) values() url.Values {
	q := url.Values{}
	set(q, "cursor", p.Cursor)
	setInt(q, "limit", int64(p.Limit))
	return q
}

func (r ReleaseQuery) values() url.Values {
	q := r.PageQuery.values()
	set(q, "line", string(r.Line))
	set(q, "machine", string(r.Machine))
	return q
}

func (m MachineQuery) values() url.Values {
	q := m.PageQuery.values()
	set(q, "tag", string(m.Tag))
	set(q, "lifecycle", string(m.Lifecycle))
	set(q, "health", string(m.Health))
	set(q, "release", string(m.Release))
	setBool(q, "drift", m.Drift)
	setBool(q, "offline", m.Offline)
	return q
}

func (r RolloutQuery) values() url.Values {
	q := r.PageQuery.values()
	set(q, "state", string(r.State))
	set(q, "release", string(r.Release))
	setBool(q, "active", r.Active)
	return q
}

func (a AuditQuery) values() url.Values {
	q := a.PageQuery.values()
	set(q, "actor", a.Actor)
	set(q, "action", a.Action)
	set(q, "subject", a.Subject)
	setInt(q, "since", a.Since)
	setInt(q, "until", a.Until)
	return q
}

func (e EventQuery) values() url.Values {
	q := url.Values{}
	set(q, "rollout", string(e.Rollout))
	set(q, "machine", string(e.Machine))
	return q
}
