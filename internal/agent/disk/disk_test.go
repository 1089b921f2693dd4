// SPDX-License-Identifier: MIT

package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
)

func TestJournal_IsReadBackAndADamagedOneIsLostNotFatal(t *testing.T) {
	s := Journal{File: filepath.Join(t.TempDir(), "journal.json")}
	if _, lost, err := s.Load(); !lost || err != nil {
		t.Fatalf("no journal: lost %v, %v", lost, err)
	}
	j := states.New()
	j.Serial, j.Done = 7, []string{"apply r/1 d"}
	if err := s.Save(j); err != nil {
		t.Fatal(err)
	}
	got, lost, err := s.Load()
	if err != nil || lost {
		t.Fatalf("lost %v, %v", lost, err)
	}
	if d := cmp.Diff(got, j); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
	if err := os.WriteFile(s.File, []byte(`{"format":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, lost, err := s.Load(); !lost || err != nil {
		t.Errorf("damaged journal: lost %v, %v", lost, err)
	}
	if _, err := os.Stat(s.File + ".damaged"); err != nil {
		t.Error("the damaged journal is not kept")
	}
	if err := os.WriteFile(s.File, []byte(`{"format":99,"step":"idle"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Load(); fleet.ErrorCode(err) != fleet.Conflict {
		t.Errorf("journal of a newer agent: %v, want a conflict and no change", err)
	}
}

// O11: the journal of an agent that was replaced during an attempt is read by its
// successor.
func TestJournal_OfTheFormatBeforeIsUpgraded(t *testing.T) {
	s := Journal{File: filepath.Join(t.TempDir(), "journal.json")}
	for text, want := range map[string]string{
		`{"format":1,"step":"back` + `-switch","work":{"outcome":"reverted"}}`:                    "rollback-switch rolled-back",
		`{"format":1,"step":"back` + `-hand-over","work":{"outcome":"reverted","revertKey":"k"}}`: "rollback-hand-over reverted",
		`{"format":1,"step":"report","work":{"outcome":"revert-failed"}}`:                         "report rollback-failed",
		`{"format":1,"step":"report","work":{"outcome":"live"}}`:                                  "report live",
	} {
		if err := os.WriteFile(s.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		j, lost, err := s.Load()
		if err != nil || lost {
			t.Fatalf("%s: lost %v, %v", text, lost, err)
		}
		if got := string(j.Step) + " " + string(j.Work.Outcome); got != want || j.Format != states.Format {
			t.Errorf("%s is read as %s, format %d; want %s", text, got, j.Format, want)
		}
	}
}

func report(i int, kind fleet.ReportKind) fleet.Report {
	return fleet.Report{ID: fmt.Sprint("r", i), Kind: kind, Machine: "web-01"}
}

func ids(t *testing.T, o *Outbox) []string {
	t.Helper()
	all, err := o.Batch(maxQueued + 1)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range all {
		out = append(out, r.ID)
	}
	return out
}

// A09: queued on disk, in order, each once, also after a restart.
func TestOutbox_KeepsOrderAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	o, err := OpenOutbox(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		for range 2 { // a repeat after a crash is not queued twice
			if err = o.Put(report(i, fleet.ReportProgress)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err = o.Sent("r0", "r3", "unknown"); err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(dir, "0000000000000005.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(dir, ".0000000000000013.json.42.tmp")
	if err = os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err = OpenOutbox(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(torn); err == nil {
		t.Error("the file of an interrupted write is still there")
	}
	if err := o.Put(report(99, fleet.ReportOutcome)); err != nil {
		t.Fatal(err)
	}
	want := []string{"r1", "r2", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r99"}
	if d := cmp.Diff(ids(t, o), want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
}

// A09, A15: bounded in number and in size; outcomes outlive progress.
func TestOutbox_IsBoundedAndKeepsOutcomes(t *testing.T) {
	o, err := OpenOutbox(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o.limit = 20
	long := report(0, fleet.ReportOutcome)
	long.Message = strings.Repeat("\xff\x00x", 1<<20)
	if err = o.Put(long); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= o.limit+3; i++ {
		kind := fleet.ReportProgress
		if i%2 == 0 {
			kind = fleet.ReportOutcome
		}
		if err = o.Put(report(i, kind)); err != nil {
			t.Fatal(err)
		}
	}
	got := ids(t, o)
	if len(got) != o.limit || got[0] != "r0" || got[1] != "r2" || got[len(got)-1] != fmt.Sprint("r", o.limit+3) {
		t.Errorf("%d reports, %v ... %v", len(got), got[:3], got[len(got)-1])
	}
	first, err := o.Batch(1)
	if err != nil || len(first[0].Message) > fleet.MaxMessage {
		t.Errorf("message of %d bytes, %v", len(first[0].Message), err)
	}
}

func TestWatch_IsDueByTheBootItWasArmedInOrALaterOne(t *testing.T) {
	w := Watch{BootID: "a", Deadline: 100, AfterBoot: 30}
	for _, tc := range []struct {
		boot string
		at   float64
		want bool
	}{{"a", 99, false}, {"a", 100, true}, {"b", 29, false}, {"b", 30, true}} {
		if got := w.Due(tc.boot, tc.at); got != tc.want {
			t.Errorf("boot %s at %g: due %v, want %v", tc.boot, tc.at, got, tc.want)
		}
	}
	w.Deadline = 0
	if w.Due("a", 1e6) {
		t.Error("due without a deadline in this boot")
	}
	w.Fired = true
	if !w.Due("b", 1) {
		t.Error("the power failed during the rollback, and it is not continued")
	}
	w.Done = true
	if w.Due("b", 1e6) {
		t.Error("due after it has acted")
	}
}

func TestHistory_AddsEachOutcomeOnceAndIsBounded(t *testing.T) {
	h := History{File: filepath.Join(t.TempDir(), "history.jsonl")}
	for i := range maxHistory + 5 {
		for range 2 {
			if err := h.Add(report(i, fleet.ReportOutcome)); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := h.List()
	if err != nil || len(got) != maxHistory || got[0].ID != "r5" {
		t.Errorf("%d outcomes from %s, %v", len(got), got[0].ID, err)
	}
}

func TestReleases_ShowWhatRunsAndRestoreWhatRanBefore(t *testing.T) {
	run := t.TempDir()
	r := Dir(t.TempDir()).Releases(run)
	shown := func() string {
		b, err := os.ReadFile(filepath.Join(run, "release.json"))
		if err != nil {
			return ""
		}
		return string(b)
	}
	step := func(what string, err error, want string) {
		t.Helper()
		if err != nil || shown() != want {
			t.Errorf("%s: %v, shows %q, want %q", what, err, shown(), want)
		}
	}
	step("nothing to show", r.Show(), "")
	for range 2 { // the last step of an attempt may be repeated
		step("one", r.Write([]byte("one")), "one")
	}
	for range 2 {
		step("two", r.Write([]byte("two")), "two")
	}
	if err := os.Remove(filepath.Join(run, "release.json")); err != nil {
		t.Fatal(err)
	}
	step("after a boot", r.Show(), "two")
	step("restored", r.Restore(), "one")
}

func TestFloorFile_IsTakenOnce(t *testing.T) {
	f := Dir(filepath.Join(t.TempDir(), "state")).Floor()
	if _, ok, err := f.Take(); ok || err != nil {
		t.Errorf("none: %t, %v", ok, err)
	}
	if err := f.Write(trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 7}}}); err != nil {
		t.Fatal(err)
	}
	if floor, ok, err := f.Take(); !ok || err != nil || floor.Lines["main"].Sequence != 7 {
		t.Errorf("floor %+v, %t, %v", floor, ok, err)
	}
	if err := os.WriteFile(f.File, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.Take(); ok || err == nil {
		t.Error("a damaged floor was adopted")
	}
	if _, ok, err := f.Take(); ok || err != nil {
		t.Errorf("taken twice: %t, %v", ok, err)
	}
}

// What a kill during a write leaves is removed at the next start, but not what the
// watchdog may be writing.
func TestSweep_RemovesWhatInterruptedWritesLeft(t *testing.T) {
	d := Dir(t.TempDir())
	for _, name := range []string{".journal.json.42.tmp", ".watchdog.json.42.tmp", "journal.json"} {
		if err := os.WriteFile(d.file(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(d.file("*"))
	if diff := cmp.Diff(left, []string{d.file(".watchdog.json.42.tmp"), d.file("journal.json")}); diff != "" || err != nil {
		t.Errorf("%v, -got +want:\n%s", err, diff)
	}
}
