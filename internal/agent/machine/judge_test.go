// SPDX-License-Identifier: MIT

package machine

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E01, E02, E06: what is delivered for an order is judged before anything of it is
// fetched.
func TestJudge_AcceptsOnlyWhatWasOrderedAndSigned(t *testing.T) {
	f, stranger := trusttest.New(t, "acme", nil), trusttest.New(t, "acme-2", nil)
	now := time.Now().UnixMilli()
	bundle := func(by *trusttest.Fleet, name string) (fleet.Digest, []byte) {
		h := by.Header(6)
		h.Name, h.CreatedAt, h.Expires = name, now-1000, now+3600_000
		e := trusttest.Entry("web-01", "x")
		e.System = host.System()
		envelope, raw := by.Unchecked(h, []fleet.Entry{e}, by.Root.FleetID+"-release")
		r, err := trust.CheckRelease(envelope, raw, &by.Root, now)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(by.Bundle(r, "web-01"))
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest, b
	}
	ordered, good := bundle(f, "ordered")
	_, other := bundle(f, "another")
	foreign, theirs := bundle(stranger, "ordered")
	j := states.New()
	j.Trust = f.State("web-01")
	j.Trust.Floor = &trust.Floor{}
	for name, c := range map[string]struct {
		digest fleet.Digest
		bundle []byte
		want   fleet.Reason
	}{
		"as it was ordered":              {ordered, good, ""},
		"another of the same signers":    {ordered, other, fleet.ReasonMalformed},
		"another fleet's":                {foreign, theirs, fleet.ReasonUnknownKey},
		"what has no end":                {ordered, make([]byte, trust.MaxBundleBytes+1), fleet.ReasonTooLarge},
		"what is no bundle":              {ordered, []byte(`{"entry":"","entry":""}`), fleet.ReasonMalformed},
		"a bundle with half an envelope": {ordered, []byte(`{"envelope":"e30=","entry":"","proof":{"index":0,"count":1,"hashes":[]}}`), fleet.ReasonWrongType},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t, &fakePlane{bundle: c.bundle})
			j.Work = &states.Work{Order: states.Order{Kind: states.Apply, Order: fleet.Order{Digest: c.digest}}}
			switch in := m.judge(t.Context(), j).(type) {
			case states.Accepted:
				if c.want != "" || in.Release.Digest != ordered {
					t.Errorf("accepted %+v, want %s", in.Release, c.want)
				}
			case states.Refused:
				if in.Reason != c.want || in.Message == "" {
					t.Errorf("got %+v, want %q", in, c.want)
				}
			default:
				t.Errorf("got %+v", in)
			}
		})
	}
	m := testMachine(t, &fakePlane{}) // which delivers nothing
	j.Work = &states.Work{Order: states.Order{Kind: states.Apply, Order: fleet.Order{Digest: ordered}}}
	if in, ok := m.judge(t.Context(), j).(states.Held); !ok || in.Why == "" {
		t.Errorf("without a bundle: %+v", in)
	}
}

// E05: a system that could not be rolled back by itself, or is another machine's, is
// not switched to, whoever signed it.
func TestInspect_RefusesWhatCannotRollItselfBack(t *testing.T) {
	watched := func(t *testing.T, files ...string) fleet.Entry {
		dir := t.TempDir()
		for _, f := range files {
			file := filepath.Join(dir, "etc/systemd/system", f)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		return fleet.Entry{ID: "web-01", System: "x86_64-linux", StorePath: fleet.StorePath(dir)}
	}
	ours := func(string) (config.Agent, error) { return config.Agent{MachineID: "web-01"}, nil }
	for name, c := range map[string]struct {
		files  []string
		detach bool
		read   func(string) (config.Agent, error)
		want   fleet.Reason
	}{
		"with a watchdog":               {[]string{host.WatchdogUnit, host.WatchdogTimer}, false, ours, ""},
		"without its timer":             {[]string{host.WatchdogUnit}, false, ours, fleet.ReasonNoWatchdog},
		"without its service":           {[]string{host.WatchdogTimer}, false, ours, fleet.ReasonNoWatchdog},
		"without an agent, as signed":   {nil, true, nil, ""},
		"its agent cannot read it":      {[]string{host.WatchdogUnit, host.WatchdogTimer}, false, func(string) (config.Agent, error) { return config.Agent{}, errDown }, fleet.ReasonMalformed},
		"the system of another machine": {[]string{host.WatchdogUnit, host.WatchdogTimer}, false, func(string) (config.Agent, error) { return config.Agent{MachineID: "web-02"}, nil }, fleet.ReasonWrongMachine},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t, &fakePlane{})
			m.ReadConfig = c.read
			e := watched(t, c.files...)
			e.Detach = c.detach
			in := m.inspect(e)
			r, refused := in.(states.Refused)
			if refused != (c.want != "") || r.Reason != c.want {
				t.Errorf("got %+v, want %q", in, c.want)
			}
		})
	}
}

// A failed fetch keeps its reason; one that has none gets one.
func TestFetchFailed_HasAReason(t *testing.T) {
	if in, ok := fetchFailed(errDown).(states.Failed); !ok || in.Reason != fleet.ReasonFetchFailed {
		t.Errorf("got %+v", in)
	}
}
