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

// confirming is a world whose control plane is up or not, with a journal that
// waits for one of the baseline.
func confirming(t *testing.T, up bool, baseline ...string) (*Machine, states.Journal) {
	t.Helper()
	m := testMachine(t, &fakePlane{down: !up})
	j := states.New()
	j.Step, j.Work = states.Confirm, &states.Work{Baseline: baseline, ConfirmUntil: m.Now().Boot + 1}
	return m, j
}

// A10: a control plane that is down does not take back a machine that reaches
// its beacons, and the other way round.
func TestConfirm_AnyThatAnsweredBeforeWillDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	beacon := "tcp://" + l.Addr().String()
	cache := httptest.NewServer(nil) // answers 404: an answer all the same
	defer cache.Close()
	const gone = "tcp://127.0.0.1:1"
	for _, tc := range []struct {
		name     string
		up       bool
		baseline []string
		want     string
	}{
		{"control plane", true, []string{gone, controlPlaneName}, controlPlaneName},
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
	m, j := confirming(t, false, controlPlaneName, gone)
	in, ok := m.confirm(t.Context(), j).(states.Unconfirmed)
	if !ok || !strings.Contains(in.Message, "control-plane: ") || !strings.Contains(in.Message, gone+": ") {
		t.Errorf("%+v, want each with what is wrong", in)
	}
}

// The watchdog that was faster is believed.
func TestConfirm_TellsWhenTheWatchdogWentBack(t *testing.T) {
	m, j := confirming(t, false, controlPlaneName)
	if err := m.dir().Watch().Write(disk.Watch{Fired: true, Done: true, Message: "went back"}); err != nil {
		t.Fatal(err)
	}
	if in, ok := m.confirm(t.Context(), j).(states.WatchdogFired); !ok || in.Message != "went back" {
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
