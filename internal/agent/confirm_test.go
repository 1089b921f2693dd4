// SPDX-License-Identifier: MIT

package agent

import (
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// confirming is a world whose control plane is up or not, with a journal that
// waits for one of the baseline.
func confirming(t *testing.T, up bool, baseline ...string) (*world, states.Journal) {
	t.Helper()
	w := testWorld(t, &fakePlane{down: !up})
	w.watch = disk.WatchFile{File: filepath.Join(t.TempDir(), "watchdog.json")}
	j := states.New()
	j.Step, j.Work = states.Confirm, &states.Work{Baseline: baseline, ConfirmUntil: w.Now().Boot + 1}
	return w, j
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
		w, j := confirming(t, tc.up, tc.baseline...)
		in, ok := w.confirm(t.Context(), j).(states.Confirmed)
		if !ok || in.By != tc.want {
			t.Errorf("%s: %+v, want %s", tc.name, in, tc.want)
		}
	}
	w, j := confirming(t, false, controlPlaneName, gone)
	in, ok := w.confirm(t.Context(), j).(states.Unconfirmed)
	if !ok || !strings.Contains(in.Message, "control-plane: ") || !strings.Contains(in.Message, gone+": ") {
		t.Errorf("%+v, want each with what is wrong", in)
	}
}

// The watchdog that was faster is believed.
func TestConfirm_TellsWhenTheWatchdogWentBack(t *testing.T) {
	w, j := confirming(t, false, controlPlaneName)
	if err := w.watch.Write(disk.Watch{Fired: true, Done: true, Message: "went back"}); err != nil {
		t.Fatal(err)
	}
	if in, ok := w.confirm(t.Context(), j).(states.WatchdogFired); !ok || in.Message != "went back" {
		t.Errorf("%+v", in)
	}
}

func TestBaseline_ListsWhatAnswers(t *testing.T) {
	w, j := confirming(t, true)
	cache := httptest.NewServer(nil)
	defer cache.Close()
	w.cfg.Confirm.Beacons = []string{"tcp://127.0.0.1:1"}
	j.Work.Accepted.Header.Caches = []fleet.Cache{{URL: cache.URL}, {URL: "file:///cache"}}
	if got := strings.Join(w.baseline(t.Context(), j), " "); got != controlPlaneName+" "+cache.URL {
		t.Errorf("baseline = %s", got)
	}
}
