// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestInventory_TellsWhichMachineWasOffline(t *testing.T) {
	v := newInventory([]fleet.Machine{{ID: "web-01", LastContact: 1000}, {ID: "web-02"}}, 500)
	for _, tt := range []struct {
		id                fleet.MachineID
		at                int64
		wasOffline, known bool
	}{
		{"web-01", 1500, false, true},
		{"web-01", 2001, true, true},
		{"web-02", 2001, false, true}, // its first contact
		{"web-03", 2001, false, false},
	} {
		if _, wasOffline, known := v.Touch(tt.id, tt.at); wasOffline != tt.wasOffline || known != tt.known {
			t.Errorf("%s at %d: was offline %t, known %t", tt.id, tt.at, wasOffline, known)
		}
	}
	m, _ := v.Machine("web-01")
	if m.LastContact != 2001 || !v.Online(m, 2501) || v.Online(m, 2502) {
		t.Errorf("last contact %d", m.LastContact)
	}
	if c := v.takeContacts(); len(c) != 2 || c["web-01"] != 2001 || len(v.takeContacts()) != 0 {
		t.Errorf("contacts to write: %v", c)
	}
	v.Touch("web-01", 3000)
	v.keepContacts(map[fleet.MachineID]int64{"web-01": 2001, "web-02": 2001}) // they could not be written
	if c := v.takeContacts(); c["web-01"] != 3000 || c["web-02"] != 2001 {
		t.Errorf("contacts to write again: %v", c)
	}
}

func TestInventory_KeepsWhatOperatorsAndAgentsSetApart(t *testing.T) {
	v := newInventory([]fleet.Machine{{ID: "web-01", Lifecycle: fleet.Pending, Version: 1}}, 500)
	v.PutStatus(fleet.Machine{ID: "web-01", BootID: "b", ClaimedTags: []fleet.Tag{"claimed"}, Tags: fleet.NewTags([]fleet.Tag{"claimed"}, nil)})
	v.put(fleet.Machine{ID: "web-01", Lifecycle: fleet.Active, Version: 2, Tags: fleet.NewTags([]fleet.Tag{"signed"}, []fleet.Tag{"set"})})
	v.PutStatus(fleet.Machine{ID: "web-01", BootID: "b", ClaimedTags: []fleet.Tag{"claimed"}})
	m, _ := v.Machine("web-01")
	if m.BootID != "b" || m.Lifecycle != fleet.Active || m.Version != 2 || len(m.Tags.Effective) != 2 || len(m.ClaimedTags) != 1 {
		t.Errorf("got %+v", m)
	}
}

func TestPresence_WakesTheMachineWhoseAssignmentChanged(t *testing.T) {
	p := newPresence()
	_, one := p.Current("web-01")
	_, two := p.Current("web-02")
	p.set("web-01", CurrentAssignment{fleet.Assignment{Rollout: "r1", State: fleet.AssignReverting}, fleet.Rollout{ID: "r1"}})
	if !closed(one) || closed(two) {
		t.Errorf("woken: %t, %t", closed(one), closed(two))
	}
	c, one := p.Current("web-01")
	if c.Orders(0).Revert == nil {
		t.Errorf("orders %+v", c.Orders(0))
	}
	p.WakeAll()
	if !closed(one) || !closed(two) {
		t.Errorf("woken: %t, %t", closed(one), closed(two))
	}
	p.clear("web-01")
	if c, _ := p.Current("web-01"); c.Orders(0).Revert != nil {
		t.Error("the assignment is still there")
	}
}

func TestNotifier_WakesThoseWhoWait(t *testing.T) {
	n := newNotifier()
	one := n.Next()
	n.Notify()
	if next := n.Next(); !closed(one) || closed(next) {
		t.Errorf("woken: %t, %t", closed(one), closed(next))
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
