// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

const machineColumns = `id, lifecycle, operator_tags, created_at, enrolled_at, version, system, line, claimed_tags,
	running, booted, boot_default, runs_release, boot_id, agent_state, waiting, health, checks, drift, agent_version, last_contact, key_hash, evidence_key,
	` + signedEntry

// signedEntry is a machine's signed entry in the release of its latest healthy
// assignment: the last that it is known to run, whatever it says of itself.
const signedEntry = `COALESCE((SELECT body FROM release_entry WHERE machine_id = machine.id AND release_digest = (
		SELECT digest FROM assignment WHERE machine_id = machine.id AND state = 'healthy' ORDER BY healthy_at DESC, rollout_id DESC LIMIT 1)), '{}')`

// Machine returns a machine, without Desired. The error's code is NotFound if
// there is none.
func (r Reader) Machine(ctx context.Context, id fleet.MachineID) (fleet.Machine, error) {
	m, ok, err := first(ctx, r.q, scanMachine, `SELECT `+machineColumns+` FROM machine WHERE id = $1`, string(id))
	if err != nil {
		return m, fmt.Errorf("read machine %s: %w", id, err)
	}
	if !ok {
		return m, notFound("machine", string(id), "nixfleet machine list shows those there are")
	}
	return m, nil
}

// MachineCount counts the machines, also of a file of an older schema, and of one
// in which no control plane has started yet.
func (r Reader) MachineCount(ctx context.Context) (int, error) {
	tables, err := list(ctx, r.q, column[string], `SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'machine'`)
	if err != nil || len(tables) == 0 {
		return 0, err
	}
	n, err := list(ctx, r.q, column[int], `SELECT count(*) FROM machine`)
	if err != nil {
		return 0, fmt.Errorf("count machines: %w", err)
	}
	return n[0], nil
}

// Machines returns all machines by id, without Desired.
func (r Reader) Machines(ctx context.Context) ([]fleet.Machine, error) {
	machines, err := list(ctx, r.q, scanMachine, `SELECT `+machineColumns+` FROM machine ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	return machines, nil
}

func scanMachine(r row) (m fleet.Machine, err error) {
	var operator, claimed, checks, entry string
	if err := r.Scan(&m.ID, &m.Lifecycle, &operator, &m.CreatedAt, &m.EnrolledAt, &m.Version, &m.System, &m.Line, &claimed,
		&m.Running, &m.Booted, &m.BootDefault, &m.RunsRelease, &m.BootID, &m.State, &m.Waiting, &m.Health, &checks,
		&m.Drift, &m.AgentVersion, &m.LastContact, &m.Key, &m.EvidenceKey, &entry); err != nil {
		return m, err
	}
	var operatorTags []fleet.Tag
	var signed struct{ Tags []fleet.Tag }
	err = parse(jsonColumn{operator, &operatorTags}, jsonColumn{claimed, &m.ClaimedTags}, jsonColumn{checks, &m.Checks}, jsonColumn{entry, &signed})
	m.Tags = fleet.NewTags(signed.Tags, operatorTags)
	return m, err
}

// SignedTags returns the tags of a machine's signed entry in the release of its
// latest healthy assignment; none if it has none.
func (r Reader) SignedTags(ctx context.Context, id fleet.MachineID) ([]fleet.Tag, error) {
	entry, _, err := first(ctx, r.q, column[string], `SELECT `+signedEntry+` FROM machine WHERE id = $1`, string(id))
	if err != nil {
		return nil, fmt.Errorf("read signed entry of %s: %w", id, err)
	}
	var signed struct{ Tags []fleet.Tag }
	if entry != "" {
		err = parse(jsonColumn{entry, &signed})
	}
	return signed.Tags, err
}

// AddMachine makes a machine known, with its key and what operators set. The error's code
// is Conflict if it is known.
func (t *Tx) AddMachine(ctx context.Context, m fleet.Machine) error {
	tags, err := text(m.Tags.Operator)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO machine (id, lifecycle, operator_tags, created_at, last_contact, key_hash) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO NOTHING`, string(m.ID), string(m.Lifecycle), tags, m.CreatedAt, m.LastContact, string(m.Key))
	if err != nil {
		return fmt.Errorf("write machine %s: %w", m.ID, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "machine %s is known already", m.ID)
	}
	return nil
}

// UpdateMachine writes what operators set and enrolment makes: lifecycle, tags,
// keys and the time of enrolment. m.Version must be the row's; it is one more afterwards. The
// error's code is Conflict if someone else was faster.
func (t *Tx) UpdateMachine(ctx context.Context, m *fleet.Machine) error {
	tags, err := text(m.Tags.Operator)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `UPDATE machine SET lifecycle = $1, operator_tags = $2, enrolled_at = $3, key_hash = $4, evidence_key = $5, version = version + 1
		WHERE id = $6 AND version = $7`, string(m.Lifecycle), tags, m.EnrolledAt, string(m.Key), string(m.EvidenceKey), string(m.ID), m.Version)
	if err != nil {
		return fmt.Errorf("write machine %s: %w", m.ID, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "machine %s was changed in the meantime", m.ID).WithHint("look at it again, then repeat")
	}
	m.Version++
	return nil
}

// UpdateMachineStatus writes what the agent reports of its machine.
func (t *Tx) UpdateMachineStatus(ctx context.Context, m fleet.Machine) error {
	tags, err := text(m.ClaimedTags)
	if err != nil {
		return err
	}
	checks, err := text(m.Checks)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `UPDATE machine SET system = $1, line = $2, claimed_tags = $3, running = $4, booted = $5, boot_default = $6,
		runs_release = $7, boot_id = $8, agent_state = $9, waiting = $10, health = $11, checks = $12, drift = $13, agent_version = $14,
		last_contact = $15 WHERE id = $16`,
		string(m.System), string(m.Line), tags, string(m.Running), string(m.Booted), string(m.BootDefault),
		string(m.RunsRelease), m.BootID, string(m.State), m.Waiting, string(m.Health), checks, bit(m.Drift), m.AgentVersion,
		m.LastContact, string(m.ID)); err != nil {
		return fmt.Errorf("write status of %s: %w", m.ID, err)
	}
	return nil
}

// touchChunk is how many machines one statement touches: two parameters each,
// and SQLite takes 32766.
const touchChunk = 10_000

// TouchMachines writes last contacts, in as few statements as parameters
// allow.
func (t *Tx) TouchMachines(ctx context.Context, contacts map[fleet.MachineID]int64) error {
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(contacts)), touchChunk) {
		var values strings.Builder
		args := make([]any, 0, 2*len(ids))
		for i, id := range ids {
			if i > 0 {
				values.WriteString(", ")
			}
			fmt.Fprintf(&values, "($%d, CAST($%d AS BIGINT))", 2*i+1, 2*i+2)
			args = append(args, string(id), contacts[id])
		}
		if _, err := t.exec(ctx, `WITH contact (id, at) AS (VALUES `+values.String()+`)
			UPDATE machine SET last_contact = (SELECT contact.at FROM contact WHERE contact.id = machine.id)
			WHERE id IN (SELECT contact.id FROM contact)`, args...); err != nil {
			return fmt.Errorf("write last contacts: %w", err)
		}
	}
	return nil
}
