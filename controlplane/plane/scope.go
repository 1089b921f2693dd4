// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"encoding/json"
	"fmt"

	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/fleet"
)

// reaches reports whether a machine is known and one that the caller's key is
// for. A key without tags is also for machines that are not known.
func (p *Plane) reaches(c access.Caller, id fleet.MachineID) bool {
	if !c.Limited() {
		return true
	}
	m, ok := p.loop.Inventory.Machine(id)
	return ok && c.Reaches(m)
}

// mayTouch returns a machine that the caller's key is for. A limited key does
// not learn whether there is another: the answer is the same, Forbidden.
func mayTouch(c access.Caller, machine func(fleet.MachineID) (fleet.Machine, bool), id fleet.MachineID) (fleet.Machine, error) {
	m, ok := machine(id)
	switch {
	case ok:
	case !c.Limited():
		return m, loop.NoMachine(id)
	default:
		m.ID = id
	}
	return m, c.MayTouch(m)
}

// mayTouchEach checks machines that are known against the caller's key; one
// that is not known is out of a limited key's reach.
func mayTouchEach(c access.Caller, machine func(fleet.MachineID) (fleet.Machine, bool), ids []fleet.MachineID) error {
	if !c.Limited() {
		return nil
	}
	for _, id := range ids {
		if _, err := mayTouch(c, machine, id); err != nil {
			return err
		}
	}
	return nil
}

// reachedEntries are the entries of the machines that the caller's key is for.
func (p *Plane) reachedEntries(c access.Caller, raw [][]byte) ([][]byte, error) {
	if !c.Limited() {
		return raw, nil
	}
	out := [][]byte{}
	for _, b := range raw {
		var e struct{ ID fleet.MachineID }
		if err := json.Unmarshal(b, &e); err != nil {
			return nil, fmt.Errorf("read entry: %w", err)
		}
		if p.reaches(c, e.ID) {
			out = append(out, b)
		}
	}
	return out, nil
}
