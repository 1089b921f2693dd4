// SPDX-License-Identifier: MIT

package machine

import (
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// confirming is a machine whose control plane is up or not, and a journal that
// waits for something of the baseline to answer.
func confirming(t *testing.T, up bool, baseline ...string) (*Machine, states.Journal) {
	t.Helper()
	m := testMachine(t, &fakePlane{down: !up})
	j := states.New()
	j.Step, j.Work = states.Confirm, &states.Work{Baseline: baseline, ConfirmUntil: m.Now().Boot + 1}
	return m, j
}

// A10: a machine that reaches its beacons does not roll back because the control
// plane is down, or the reverse.
func TestConfirm_IsDoneByAnyThatAnsweredBefore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	beacon := "tcp://" + l.Addr().String()
	cache := httptest.NewServer(nil) // answers 404, which is an answer
	defer cache.Close()
	const absent = "tcp://127.0.0.1:1"
	for _, tc := range []struct {
		name     string
		up       bool
		baseline []string
		want     string
	}{
		{"control plane", true, []string{absent, controlPlaneName}, controlPlaneName},
		{"beacon", false, []string{controlPlaneName, beacon}, beacon},
		{"cache", false, []string{controlPlaneName, cache.URL}, cache.URL},
		{"nothing answered before", false, nil, checksOnly},
	} {
		m, j := confirming(t, tc.up, tc.baseline...)
		in, ok := m.confirm(t.Context(), j).(states.Confirmed)
		if !ok || in.By != tc.want {
			t.Errorf("%s: %+v, want %s", tc.name, in, tc.want)
		}
	}
	m, j := confirming(t, false, controlPlaneName, absent)
	in, ok := m.confirm(t.Context(), j).(states.Unconfirmed)
	if !ok || !strings.Contains(in.Message, "control-plane: ") || !strings.Contains(in.Message, absent+": ") {
		t.Errorf("%+v, want each with what is wrong", in)
	}
}

// A watchdog that was faster counts.
func TestConfirm_SeesThatTheWatchdogRolledBack(t *testing.T) {
	m, j := confirming(t, false, controlPlaneName)
	if err := m.dir().Watch().Write(disk.Watch{Fired: true, Done: true, Message: "rolled back"}); err != nil {
		t.Fatal(err)
	}
	if in, ok := m.confirm(t.Context(), j).(states.WatchdogFired); !ok || in.Message != "rolled back" {
		t.Errorf("%+v", in)
	}
}

func TestBaseline_ListsWhatAnswers(t *testing.T) {
	m, j := confirming(t, true)
	cache := httptest.NewServer(nil)
	defer cache.Close()
	m.Agent.Confirm.Beacons = []string{"tcp://127.0.0.1:1"}
	j.Work.Accepted.Header.Caches = []fleet.Cache{{URL: cache.URL}, {URL: "file:///cache"}}
	if got := strings.Join(m.baseline(t.Context(), j), " "); got != controlPlaneName+" "+cache.URL {
		t.Errorf("baseline = %s", got)
	}
}
