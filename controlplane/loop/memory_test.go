// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// A machine is there while its check-in is held and for 20 seconds after; one that
// holds none, until 2.5 of the intervals that it announces have passed. What the
// wall clock says meanwhile counts for nothing (H20).
func TestInventory_TellsWhoIsThere(t *testing.T) {
	at := func(run int64) rollout.Moment { return rollout.Moment{Wall: 10 * dayMs, Run: run} }
	const begin = 5 * dayMs
	for name, tt := range map[string]struct {
		wait, poll int64
		grace      int64
	}{
		"held":                         {wait: 55_000, poll: 30_000, grace: 20_000},
		"plain":                        {poll: 40_000, grace: 100_000},
		"plain, of the version before": {grace: 150_000},
		"plain, quick":                 {poll: 50, grace: 20_000},
		"plain, for ever":              {poll: 1 << 60, grace: 60 * hourMs},
	} {
		v := newInventory([]fleet.Machine{{ID: "web-01", LastContact: 1000}}, rollout.Moment{})
		if online, seen := v.Online("web-01", begin); online || seen != 0 {
			t.Errorf("%s: there before it was heard of since the start", name)
		}
		if _, wasOffline, known := v.CheckedIn("web-01", at(begin), tt.wait, tt.poll); !wasOffline || !known {
			t.Errorf("%s: was offline %t, known %t", name, wasOffline, known)
		}
		for _, run := range []int64{begin, begin + tt.grace} {
			if online, _ := v.Online("web-01", run); !online {
				t.Errorf("%s: not there after %d ms", name, run-begin)
			}
		}
		if online, seen := v.Online("web-01", begin+tt.grace+1); online || seen != begin {
			t.Errorf("%s: there after %d ms, seen %d", name, tt.grace+1, seen-begin)
		}
		if _, wasOffline, _ := v.CheckedIn("web-01", at(begin+tt.grace), tt.wait, tt.poll); wasOffline {
			t.Errorf("%s: was offline after %d ms", name, tt.grace)
		}
		v.Hold("web-01", at(begin+tt.grace), 1)
		v.Hold("web-01", at(begin+tt.grace), 1) // a newer one
		v.Hold("web-01", at(begin+dayMs), -1)
		if online, _ := v.Online("web-01", begin+2*dayMs); !online {
			t.Errorf("%s: not there while its check-in is held", name)
		}
		v.Hold("web-01", at(begin+2*dayMs), -1)
		if online, _ := v.Online("web-01", begin+2*dayMs+tt.grace+1); online {
			t.Errorf("%s: there for too long after its check-in was held", name)
		}
	}
}

func TestInventory_KeepsContactsToWrite(t *testing.T) {
	at := func(wall int64) rollout.Moment { return rollout.Moment{Wall: wall, Run: wall} }
	v := newInventory([]fleet.Machine{{ID: "web-01", LastContact: 1000}, {ID: "web-02"}}, rollout.Moment{})
	v.CheckedIn("web-01", at(2001), 0, 0)
	v.CheckedIn("web-02", at(2001), 0, 0)
	if _, _, known := v.CheckedIn("web-03", at(2001), 0, 0); known {
		t.Error("web-03 is known")
	}
	if c := v.takeContacts(); len(c) != 2 || c["web-01"] != 2001 || len(v.takeContacts()) != 0 {
		t.Errorf("contacts to write: %v", c)
	}
	v.Heard("web-01", at(3000))
	v.keepContacts(map[fleet.MachineID]int64{"web-01": 2001, "web-02": 2001}) // they could not be written
	if c := v.takeContacts(); c["web-01"] != 3000 || c["web-02"] != 2001 {
		t.Errorf("contacts to write again: %v", c)
	}
}

func TestInventory_KeepsWhatOperatorsAndAgentsSetApart(t *testing.T) {
	v := newInventory([]fleet.Machine{{ID: "web-01", Lifecycle: fleet.Pending, Version: 1}}, rollout.Moment{})
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
	one, two := make(waker), make(waker)
	p.Watch("web-01", one)
	p.Watch("web-02", two)
	p.set("web-01", CurrentAssignment{fleet.Assignment{Rollout: "r1", State: fleet.AssignReverting}, fleet.Rollout{ID: "r1"}})
	if !closed(one) || closed(two) {
		t.Errorf("woken: %t, %t", closed(one), closed(two))
	}
	one = make(waker)
	c := p.Watch("web-01", one)
	if c.Orders(0).Revert == nil {
		t.Errorf("orders %+v", c.Orders(0))
	}
	p.WakeAll()
	if !closed(one) || !closed(two) {
		t.Errorf("woken: %t, %t", closed(one), closed(two))
	}
	p.clear("web-01")
	if p.Assignment("web-01").Orders(0).Revert != nil {
		t.Error("the assignment is still there")
	}
	one = make(waker)
	p.Watch("web-01", one)
	p.Unwatch("web-01", two) // another's
	p.Watch("web-02", two)
	p.Unwatch("web-02", two)
	p.WakeAll() // would close two again
	if !closed(one) {
		t.Error("web-01 is not woken")
	}
}

// waker is closed when it is woken.
type waker chan struct{}

func (w waker) Wake() { close(w) }

func TestNotifier_WakesThoseWhoWait(t *testing.T) {
	n := newNotifier()
	one := n.Next()
	n.Notify()
	if next := n.Next(); !closed(one) || closed(next) {
		t.Errorf("woken: %t, %t", closed(one), closed(next))
	}
}

func closed[C ~chan struct{} | ~<-chan struct{}](c C) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
