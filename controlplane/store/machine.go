// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// machineColumns are a machine's row, and of its latest healthy assignment, the
// last that it is known to run whatever it says of itself: the release, the
// system, the rollout, and the signed entry.
const (
	machineColumns = `m.id, m.lifecycle, m.operator_tags, m.created_at, m.enrolled_at, m.version, m.system, m.line, m.claimed_tags, m.running, m.booted,
	m.boot_default, m.runs_release, m.boot_id, m.agent_state, m.waiting, m.health, m.checks, m.drift, m.agent_version, m.last_contact, m.key_hash, m.evidence_key, m.needs_reboot, m.formerly, m.inventory,
	COALESCE(c.at, 0), COALESCE(h.digest, ''), COALESCE(h.store_path, ''), COALESCE(h.rollout_id, ''), COALESCE(e.body, '{}')`
	machineRows = ` FROM machine AS m LEFT JOIN machine_contact AS c ON c.machine_id = m.id` + healthyRows
	healthyRows = ` LEFT JOIN assignment AS h ON h.machine_id = m.id AND h.rollout_id = (
		SELECT rollout_id FROM assignment WHERE machine_id = m.id AND state = 'healthy' ORDER BY healthy_run DESC, rollout_id DESC LIMIT 1)
		LEFT JOIN release_entry AS e ON e.machine_id = m.id AND e.release_digest = h.digest`
)

// Machine returns a machine; its Desired is that of Rest. The error's code is NotFound if
// there is none.
func (r Reader) Machine(ctx context.Context, id fleet.MachineID) (fleet.Machine, error) {
	m, ok, err := first(ctx, r.q, scanMachine, `SELECT `+machineColumns+machineRows+` WHERE m.id = $1`, string(id))
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

// Machines returns all machines by id; their Desired is that of Rest.
func (r Reader) Machines(ctx context.Context) ([]fleet.Machine, error) {
	machines, err := list(ctx, r.q, scanMachine, `SELECT `+machineColumns+machineRows+` ORDER BY m.id`)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	return machines, nil
}

func scanMachine(r row) (m fleet.Machine, err error) {
	var operator, claimed, checks, entry, inventory string
	var contact int64
	var rest fleet.Desired
	if err = r.Scan(&m.ID, &m.Lifecycle, &operator, &m.CreatedAt, &m.EnrolledAt, &m.Version, &m.System, &m.Line, &claimed,
		&m.Running, &m.Booted, &m.BootDefault, &m.RunsRelease, &m.BootID, &m.State, &m.Waiting, &m.Health, &checks,
		&m.Drift, &m.AgentVersion, &m.LastContact, &m.Key, &m.EvidenceKey, &m.NeedsReboot, &m.Formerly, &inventory, &contact,
		&rest.Digest, &rest.StorePath, &rest.Rollout, &entry); err != nil {
		return m, err
	}
	m.LastContact = max(m.LastContact, contact)
	if inventory != "" {
		if err = parse(jsonColumn{inventory, &m.Inventory}); err != nil {
			return m, err
		}
	}
	if rest.Rollout != "" {
		m.Desired = &rest
	}
	var operatorTags []fleet.Tag
	var signed struct{ Tags []fleet.Tag }
	err = parse(jsonColumn{operator, &operatorTags}, jsonColumn{claimed, &m.ClaimedTags}, jsonColumn{checks, &m.Checks}, jsonColumn{entry, &signed})
	m.Tags = fleet.NewTags(signed.Tags, operatorTags)
	return m, err
}

// Rest is where a machine rests while no rollout claims it: what it should run by
// its latest healthy assignment, and the tags of its signed entry there. It is zero
// for a machine that has none.
type Rest struct {
	Desired *fleet.Desired
	Tags    []fleet.Tag
}

// Rests returns where machines rest.
func (r Reader) Rests(ctx context.Context, ids ...fleet.MachineID) (map[fleet.MachineID]Rest, error) {
	rests := make(map[fleet.MachineID]Rest, len(ids))
	err := inParts(len(ids), 1, func(from, size int) error {
		_, err := list(ctx, r.q, func(r row) (none struct{}, err error) {
			var id fleet.MachineID
			var d fleet.Desired
			var v Rest
			var entry string
			if err = r.Scan(&id, &d.Digest, &d.StorePath, &d.Rollout, &entry); err != nil || d.Rollout == "" {
				return none, err
			}
			v.Desired = &d
			err = parse(jsonColumn{entry, &struct{ Tags *[]fleet.Tag }{&v.Tags}})
			rests[id] = v
			return none, err
		}, `SELECT m.id, COALESCE(h.digest, ''), COALESCE(h.store_path, ''), COALESCE(h.rollout_id, ''), COALESCE(e.body, '{}') FROM machine AS m`+
			healthyRows+` WHERE m.id IN `+placeholders(size), anyOf(ids[from:from+size])...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read latest healthy assignments: %w", err)
	}
	return rests, nil
}

// AddMachine makes a machine known, with its key and what operators set. The error's code
// is Conflict if it is known.
func (t *Tx) AddMachine(ctx context.Context, m fleet.Machine) error {
	tags, err := text(m.Tags.Operator)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO machine (id, lifecycle, operator_tags, created_at, last_contact, key_hash, formerly) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO NOTHING`, string(m.ID), string(m.Lifecycle), tags, m.CreatedAt, m.LastContact, string(m.Key), string(m.Formerly))
	if err != nil {
		return fmt.Errorf("write machine %s: %w", m.ID, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "machine %s is known already", m.ID)
	}
	return nil
}

// MachineTrace names something that is kept of a machine beside its row and
// enrolment tokens: a key, a certificate, a report, a part in a rollout; "" for
// nothing.
func (r Reader) MachineTrace(ctx context.Context, id fleet.MachineID) (string, error) {
	trace, _, err := first(ctx, r.q, column[string], `SELECT COALESCE(
		(SELECT 'a part in rollout ' || rollout_id FROM assignment WHERE machine_id = $1 LIMIT 1),
		(SELECT 'a certificate' FROM certificate WHERE machine_id = $1 LIMIT 1),
		(SELECT 'a certificate' FROM shown_certificate WHERE machine_id = $1 LIMIT 1),
		(SELECT 'a key that has ended' FROM ended_key WHERE machine_id = $1 LIMIT 1),
		(SELECT 'a key' FROM machine WHERE id = $1 AND key_hash <> ''),
		(SELECT 'reports' FROM machine_report WHERE machine_id = $1 LIMIT 1), '')`, string(id))
	if err != nil {
		return "", fmt.Errorf("read what is kept of %s: %w", id, err)
	}
	return trace, nil
}

// DeleteMachine forgets a machine that has no trace, with its tokens.
func (t *Tx) DeleteMachine(ctx context.Context, id fleet.MachineID) error {
	if err := t.EndTokens(ctx, id); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `DELETE FROM machine WHERE id = $1`, string(id)); err != nil {
		return fmt.Errorf("delete machine %s: %w", id, err)
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
	inventory := ""
	if m.Inventory != nil {
		if inventory, err = text(m.Inventory); err != nil {
			return err
		}
	}
	if _, err := t.exec(ctx, `UPDATE machine SET system = $1, line = $2, claimed_tags = $3, running = $4, booted = $5, boot_default = $6,
		runs_release = $7, boot_id = $8, agent_state = $9, waiting = $10, health = $11, checks = $12, drift = $13, agent_version = $14,
		last_contact = $15, needs_reboot = $16, inventory = $17 WHERE id = $18`,
		string(m.System), string(m.Line), tags, string(m.Running), string(m.Booted), string(m.BootDefault),
		string(m.RunsRelease), m.BootID, string(m.State), m.Waiting, string(m.Health), checks, bit(m.Drift), m.AgentVersion,
		m.LastContact, bit(m.NeedsReboot), inventory, string(m.ID)); err != nil {
		return fmt.Errorf("write status of %s: %w", m.ID, err)
	}
	return nil
}

// TouchMachines writes last contacts. Contacts of machines that are not known are
// an error.
func (t *Tx) TouchMachines(ctx context.Context, contacts map[fleet.MachineID]int64) error {
	rows := make([][]any, 0, len(contacts))
	for _, id := range slices.Sorted(maps.Keys(contacts)) {
		rows = append(rows, []any{string(id), contacts[id]})
	}
	if _, err := t.putRows(ctx, `INSERT INTO machine_contact (machine_id, at)`, rows, ` ON CONFLICT (machine_id) DO UPDATE SET at = excluded.at`); err != nil {
		return fmt.Errorf("write last contacts: %w", err)
	}
	return nil
}
