// SPDX-License-Identifier: MIT

package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// headerOf is the signed header of a release of f.
func headerOf(f *trusttest.Fleet, sequence uint64, line fleet.Line) []byte {
	h := f.Header(sequence)
	h.Line = line
	return f.Release(h, trusttest.Entry("web-01", "system")).Envelope
}

// What lies on the machine by a person's hand sets the floor, if the machine's own
// root says that it is a release of this machine's line.
func TestTokenFloor_CountsOnlyWithTheMachinesOwnRoot(t *testing.T) {
	f, other := trusttest.New(t, "test", nil), trusttest.New(t, "other", nil)
	soon := time.Now().Add(time.Hour).UnixMilli()
	head := headerOf(f, 7, "main")
	forged := bytes.Replace(head, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	for _, tc := range []struct {
		name string
		told *api.TokenFloor
		root bool
		want fleet.Sequence
		err  string
	}{
		{"a release", &api.TokenFloor{Line: "main", Release: head, Expires: soon}, true, 7, ""},
		{"no release yet", &api.TokenFloor{Line: "main", Expires: soon}, true, 0, ""},
		{"a token without a floor", nil, true, 0, "carries no floor"},
		{"a token for another line", &api.TokenFloor{Line: "staging", Expires: soon}, true, 0, "for line staging"},
		{"a release of another line", &api.TokenFloor{Line: "main", Release: headerOf(f, 7, "staging"), Expires: soon}, true, 0, "of line staging"},
		{"an old token", &api.TokenFloor{Line: "main", Release: head, Expires: time.Now().UnixMilli() - 1}, true, 0, "expired"},
		{"another fleet's release", &api.TokenFloor{Line: "main", Release: headerOf(other, 7, "main"), Expires: soon}, true, 0, "token's release: "},
		{"a forged release", &api.TokenFloor{Line: "main", Release: forged, Expires: soon}, true, 0, "token's release: "},
		{"a machine without a root", &api.TokenFloor{Line: "main", Release: head, Expires: soon}, false, 0, "no root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := &f.Root
			if !tc.root {
				root = nil
			}
			got, err := tokenFloor(config.Agent{MachineID: "web-01", Line: "main"}, root, tc.told, time.Now())
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, %v, want the error %q", got, err, tc.err)
				}
				return
			}
			if err != nil || got.Lines["main"].Sequence != tc.want || tc.want > 0 && got.Lines["main"].Digest == "" {
				t.Errorf("got %+v, %v, want the floor %d", got, err, tc.want)
			}
		})
	}
}

// A floor that is known, or that a person has left, is not replaced by a token's;
// one that cannot count leaves the floor unknown and says what to do.
func TestLeaveFloor_NeverReplacesOne(t *testing.T) {
	f := trusttest.New(t, "test", nil)
	soon := time.Now().Add(time.Hour).UnixMilli()
	head := &api.TokenFloor{Line: "main", Release: headerOf(f, 7, "main"), Expires: soon}
	set := func(s fleet.Sequence) trust.Floor {
		return trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: s}}}
	}
	for _, tc := range []struct {
		name  string
		known bool
		left  bool
		told  *api.TokenFloor
		want  fleet.Sequence // 0: none is left
		hint  bool
	}{
		{"unknown", false, false, head, 7, false},
		{"known", true, false, head, 0, false},
		{"left by a person", false, true, head, 9, false},
		{"no floor in the token", false, false, nil, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config.Agent{MachineID: "web-01", Line: "main", StateDir: t.TempDir()}
			file := disk.Dir(cfg.StateDir).Floor()
			j := states.New()
			j.Trust.Root = &f.Root
			if tc.known {
				known := set(9)
				j.Trust.Floor = &known
			}
			if tc.left {
				if err := file.Write(set(9)); err != nil {
					t.Fatal(err)
				}
			}
			var log strings.Builder
			if err := leaveFloor(cfg, func() states.Journal { return j }, slog.New(slog.NewTextHandler(&log, nil)))(tc.told); err != nil {
				t.Fatal(err)
			}
			got, ok, err := file.Take()
			if err != nil || ok != (tc.want > 0) || got.Lines["main"].Sequence != tc.want {
				t.Errorf("left %+v, %v, %v, want %d", got, ok, err, tc.want)
			}
			if hint := strings.Contains(log.String(), "nixfleet-agent adopt-floor"); hint != tc.hint {
				t.Errorf("hint %v, log %q", hint, log.String())
			}
		})
	}
}

// Whoever enrols a machine by hand may vouch for it, if it has no floor.
func TestLeaveAnyFloor_IsForAMachineWithoutOne(t *testing.T) {
	for _, known := range []bool{false, true} {
		cfg := config.Agent{MachineID: "web-01", Line: "main", StateDir: t.TempDir()}
		j := states.New()
		if known {
			j.Trust.Floor = &trust.Floor{}
		}
		if err := leaveAnyFloor(cfg, j)(nil); err != nil {
			t.Fatal(err)
		}
		f, ok, err := disk.Dir(cfg.StateDir).Floor().Take()
		if err != nil || ok == known || len(f.Lines) > 0 {
			t.Errorf("known %v: left %+v, %v, %v", known, f, ok, err)
		}
	}
}
