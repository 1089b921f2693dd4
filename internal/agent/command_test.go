// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// bench is a machine's files.
type bench struct {
	*testing.T
	Options
	state disk.Dir
	dir   string
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, dir: t.TempDir()}
	b.Options = Options{ConfigFile: filepath.Join(b.dir, "agent.toml"), Version: "test", Log: slog.New(slog.DiscardHandler)}
	b.state = disk.Dir(filepath.Join(b.dir, "state"))
	b.put("root.json", trusttest.New(t, "acme", nil).RootEnvelope)
	b.put("agent.toml", fmt.Appendf(nil, "machineId = \"web-01\"\nline = \"main\"\nstateDir = %q\nrunDir = %q\n[controlPlane]\nurl = \"https://127.0.0.1:1\"\n[trust]\nrootFile = %q\n",
		string(b.state), filepath.Join(b.dir, "run"), filepath.Join(b.dir, "root.json")))
	return b
}

func (b *bench) put(name string, text []byte) {
	b.Helper()
	file := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		b.Fatal(err)
	}
}

// journal writes a journal.
func (b *bench) journal(change func(*states.Journal)) {
	b.Helper()
	j := states.New()
	change(&j)
	if err := os.MkdirAll(string(b.state), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := b.state.Journal().Save(j); err != nil {
		b.Fatal(err)
	}
}

// What a command needs and cannot read stops it before it does anything; a person on
// the machine still sees its state, and sets its floor, without a root document (A17).
func TestCommands_RefuseWhatTheyCannotRead(t *testing.T) {
	commands := map[string]func(*bench) error{
		"run":         func(b *bench) error { return Run(b.Context(), b.Options) },
		"watchdog":    func(b *bench) error { return Watchdog(b.Context(), b.Options) },
		"adopt-floor": func(b *bench) error { return AdoptFloor(b.Options, 3) },
		"repair": func(b *bench) error {
			return AllowRepair(b.Options, fleet.StoreDir+"/00000000000000000000000000000000-x")
		},
		"status":  func(b *bench) error { _, err := ReadStatus(b.Options); return err },
		"history": func(b *bench) error { _, err := ReadHistory(b.Options); return err },
		"enroll": func(b *bench) error {
			_, err := Enroll(b.Context(), b.Options, filepath.Join(b.dir, "no-token"), false)
			return err
		},
	}
	for name, c := range map[string]struct {
		spoil func(*bench)
		want  map[string]fleet.Code // the others go on
	}{
		"the configuration": {
			func(b *bench) { b.put("agent.toml", []byte("machineId = 7")) },
			map[string]fleet.Code{
				"run": fleet.Invalid, "watchdog": fleet.Invalid, "adopt-floor": fleet.Invalid, "repair": fleet.Invalid, "status": fleet.Invalid, "history": fleet.Invalid, "enroll": fleet.Invalid,
			},
		},
		"a journal that a newer agent wrote": {
			func(b *bench) { b.journal(func(j *states.Journal) { j.Format = states.Format + 1 }) },
			map[string]fleet.Code{"run": fleet.Conflict, "adopt-floor": fleet.Conflict, "status": fleet.Conflict, "enroll": fleet.Conflict},
		},
		"the root document": {
			func(b *bench) {
				if err := os.Remove(filepath.Join(b.dir, "root.json")); err != nil {
					b.Fatal(err)
				}
			},
			map[string]fleet.Code{"run": fleet.NotFound, "enroll": fleet.NotFound},
		},
		"a root document that is none": {
			func(b *bench) { b.put("root.json", []byte("{}")) },
			map[string]fleet.Code{"run": fleet.Refused, "enroll": fleet.Refused},
		},
	} {
		for command, do := range commands {
			t.Run(command+" without "+name, func(t *testing.T) {
				b := newBench(t)
				c.spoil(b)
				if err := do(b); fleet.ErrorCode(err) != c.want[command] {
					t.Errorf("%v, want the code %q", err, c.want[command])
				}
				if adopted := command == "adopt-floor" && c.want[command] == ""; b.state.Floor().Left() != adopted {
					t.Errorf("a floor is left: %t", !adopted)
				}
			})
		}
	}
}

// Two agents never share a state directory.
func TestRun_RefusesAStateThatAnotherAgentUses(t *testing.T) {
	b := newBench(t)
	unlock, err := lockState(string(b.state))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it would run for ever
	if err = Run(ctx, b.Options); fleet.ErrorCode(err) != fleet.Conflict {
		t.Errorf("%v", err)
	}
	unlock()
	if unlock, err = lockState(string(b.state)); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A17: a person gives a floor to a machine that has none, and never another to one
// that has.
func TestAdoptFloor_IsForAMachineWithoutOne(t *testing.T) {
	for sequence, lines := range map[fleet.Sequence]int{0: 0, 7: 1} {
		b := newBench(t)
		if err := AdoptFloor(b.Options, sequence); err != nil {
			t.Fatal(err)
		}
		if f, ok, err := b.state.Floor().Take(); err != nil || !ok || len(f.Lines) != lines || f.Lines["main"].Sequence != sequence {
			t.Errorf("left %+v, %t, %v", f, ok, err)
		}
		b.journal(func(j *states.Journal) { j.Trust.Floor = &trust.Floor{} })
		if err := AdoptFloor(b.Options, sequence); fleet.ErrorCode(err) != fleet.Conflict || b.state.Floor().Left() {
			t.Errorf("a second one: %v; left: %t", err, b.state.Floor().Left())
		}
	}
}

// A person allows a store path to be replaced, and nothing else.
func TestAllowRepair_IsOfAStorePath(t *testing.T) {
	b := newBench(t)
	for _, path := range []fleet.StorePath{"", "/etc/passwd", fleet.StoreDir + "/../../etc/passwd"} {
		if err := AllowRepair(b.Options, path); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// A machine enrols by a token or not at all; without one it is told how to get it.
func TestEnroll_WantsAToken(t *testing.T) {
	b := newBench(t)
	for file, want := range map[string]fleet.Code{"": fleet.Invalid, "none": fleet.NotFound, "token": fleet.Invalid} {
		b.put("token", []byte("no token"))
		if file != "" {
			file = filepath.Join(b.dir, file)
		}
		for _, anyFloor := range []bool{false, true} {
			if _, err := Enroll(t.Context(), b.Options, file, anyFloor); fleet.ErrorCode(err) != want || fleet.ErrorHint(err) == "" && want == fleet.NotFound {
				t.Errorf("%q: %v, want %s", file, err, want)
			}
		}
	}
	if b.state.Floor().Left() {
		t.Error("it left a floor")
	}
}

// A10: a rollback that fails is tried again, as often as the watchdog does, and then
// told to the agent.
func TestWatchdog_TriesAgainAndThenSaysWhy(t *testing.T) {
	b := newBench(t)
	if err := os.MkdirAll(string(b.state), 0o700); err != nil {
		t.Fatal(err)
	}
	missing := fleet.StorePath(fleet.StoreDir + "/00000000000000000000000000000000-none")
	if err := b.state.Watch().Write(disk.Watch{Previous: missing, Unit: "none", Fired: true}); err != nil {
		t.Fatal(err)
	}
	for try, last := 1, false; !last; try++ {
		err := Watchdog(b.Context(), b.Options)
		w, armed, broken := b.state.Watch().Read()
		if last = err == nil; !armed || broken != nil || w.Tries != try || w.Done != last || last != (try == 3) {
			t.Fatalf("try %d: %v; then %+v, %t, %v", try, err, w, armed, broken)
		}
		if last && !strings.Contains(w.Message, string(missing)) {
			t.Errorf("it says %q", w.Message)
		}
	}
	if err := Watchdog(b.Context(), b.Options); err != nil {
		t.Errorf("after the end: %v", err)
	}
}
