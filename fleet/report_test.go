// SPDX-License-Identifier: MIT

package fleet_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
)

// checkClean fails unless text is fit for a report, a row and a terminal.
func checkClean(t interface {
	Helper()
	Fatalf(string, ...any)
}, in string, limit int) {
	t.Helper()
	out := fleet.CleanText(in, limit)
	switch {
	case len(out) > limit:
		t.Fatalf("%q cut to %d has %d bytes", in, limit, len(out))
	case !utf8.ValidString(out):
		t.Fatalf("%q gives %q, which is not UTF-8", in, out)
	case strings.ContainsFunc(out, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		t.Fatalf("%q gives %q, which has control characters", in, out)
	case fleet.CleanText(out, limit) != out:
		t.Fatalf("%q: cleaning the cleaned text changes it: %q", in, out)
	}
}

// A15: any bytes, any size, any limit.
func TestCleanText_IsBoundedUTF8WithoutControls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "text") {
			in = rapid.StringOf(rapid.RuneFrom(nil, unicode.Cc, unicode.Latin, unicode.Han)).Draw(t, "runes")
		}
		in = strings.Repeat(in, rapid.IntRange(1, 30).Draw(t, "times"))
		checkClean(t, in, rapid.IntRange(0, 200).Draw(t, "limit"))
	})
}

func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31m", "\u009b2J", "\xff\xfe", strings.Repeat("é", 100), "a\x00b\nc\td"} {
		f.Add(s, 16)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		checkClean(t, s, min(max(limit, 0), 1<<16))
	})
}

// A15: a page of output keeps its beginning and its end, which say most.
func TestCleanText_KeepsBeginningAndEnd(t *testing.T) {
	const limit = 120
	out := fleet.CleanText("BEGIN "+strings.Repeat("middle ", 1<<16)+" END", limit)
	if !strings.HasPrefix(out, "BEGIN ") || !strings.HasSuffix(out, " END") || !strings.Contains(out, "[...]") || len(out) < limit-8 {
		t.Errorf("got %q", out)
	}
	if got := fleet.CleanText("short\ttext\nof two lines", limit); got != "short\ttext\nof two lines" {
		t.Errorf("short text becomes %q", got)
	}
	if got := fleet.CleanText("a\x1b[31mb\x00c\u009bd\xffe", limit); got != "a[31mbcd?e" {
		t.Errorf("got %q", got)
	}
}

// A15: nothing that a report says makes it invalid once it is clean.
func TestReport_IsValidOnceClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		junk := rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat(string(rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "bytes")), rapid.IntRange(1, 400).Draw(t, "times"))
		})
		r := fleet.Report{
			ID: "1", Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeFailed, Reason: fleet.ReasonActivation,
			Message: junk.Draw(t, "message"), Failed: rapid.SliceOfN(junk, 0, 80).Draw(t, "failed"),
		}
		for range rapid.IntRange(0, 200).Draw(t, "checks") {
			r.Checks = append(r.Checks, fleet.HealthCheckResult{Observed: junk.Draw(t, "observed")})
		}
		r.Clean()
		if err := r.Validate(); err != nil {
			t.Fatal(err)
		}
		if len(r.Message) > fleet.MaxMessage || len(r.Failed) > fleet.MaxFailedUnits || len(r.Checks) > fleet.MaxChecks {
			t.Fatalf("beyond its limits: %d, %d, %d", len(r.Message), len(r.Failed), len(r.Checks))
		}
	})
}

// A word of a closed list that is not known stays, and nothing else that could
// not be one; what is not valid is left out with a mark, and the rest counts.
func TestReport_CleanKeepsWordsAndMarksWhatItLeavesOut(t *testing.T) {
	r := fleet.Report{
		ID: "1", Machine: "web-01", Kind: "rumour", Reason: "because", Phase: "Fetching", BootID: strings.Repeat("b", 100) + "\x1b",
		StorePath: "/etc", Confirmed: "a\nb\x1b[31m", Message: strings.Repeat("m", 2*fleet.MaxMessage), Failed: []string{"a\x1b\n.service"},
		Generations: fleet.Generations{Running: "/nix/store/../etc", Booted: "/nix/store/00000000000000000000000000000000-a"},
		Checks: []fleet.HealthCheckResult{
			{Name: "web\x1b[31m" + strings.Repeat("x", 1<<18), Kind: "unit\x1b", Status: "Passing", Required: true, Observed: "\x1b]0;owned\x07"},
			{Name: "", Kind: "dns", Status: "sleepy"},
		},
	}
	for range 2 { // the agent cleans, and then the control plane
		r.Clean()
	}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	if r.Kind != "rumour" || r.Reason != "because" || r.Phase != "unreadable" || r.StorePath != "" || r.Running != "" || r.Booted == "" {
		t.Errorf("got %+v", r)
	}
	if len(r.Message) > fleet.MaxMessage || !strings.HasSuffix(r.Message, "\n[left out, not valid: storePath, running]") || strings.Count(r.Message, "left out") != 1 {
		t.Errorf("message ends with %q", r.Message[len(r.Message)-80:])
	}
	a, b := r.Checks[0], r.Checks[1]
	if len(a.Name) > 63 || a.Kind != "unreadable" || a.Status != "unreadable" || b.Name != "unreadable" || b.Kind != "dns" || b.Status != "sleepy" {
		t.Errorf("checks are %+v", r.Checks)
	}
	for _, s := range []string{r.BootID, r.Confirmed, r.Failed[0], a.Name, a.Observed, r.Message} {
		if strings.ContainsFunc(s, func(c rune) bool { return unicode.IsControl(c) && c != '\n' }) {
			t.Errorf("%q has control characters", s)
		}
	}
	if got := fleet.HealthOf(r.Checks); got != fleet.HealthPending {
		t.Errorf("with a required check of an unknown status the machine is %s, want pending", got)
	}
}

// H01: a report that does not say which attempt at which release it is about
// counts for none.
func TestReport_NamesWhatItIsAbout(t *testing.T) {
	good := fleet.Report{
		ID: "1", Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Rollout: "r1", Attempt: 1, Digest: fleet.SHA256(nil),
		StorePath: "/nix/store/00000000000000000000000000000000-a",
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*fleet.Report){
		"no id":            func(r *fleet.Report) { r.ID = "" },
		"no machine":       func(r *fleet.Report) { r.Machine = "" },
		"no attempt":       func(r *fleet.Report) { r.Attempt = 0 },
		"no digest":        func(r *fleet.Report) { r.Digest = "" },
		"bad rollout":      func(r *fleet.Report) { r.Rollout = "../r1" },
		"no outcome":       func(r *fleet.Report) { r.Outcome = "" },
		"no word":          func(r *fleet.Report) { r.Outcome = "Great!" },
		"unknown kind":     func(r *fleet.Report) { r.Kind = "rumour" }, // and has an outcome
		"id with escapes":  func(r *fleet.Report) { r.ID = "1\x1b[2J" },
		"outcome of drift": func(r *fleet.Report) { r.Kind = fleet.ReportDrift },
		"no phase":         func(r *fleet.Report) { r.Kind, r.Outcome = fleet.ReportProgress, "" },
		"reason, no word":  func(r *fleet.Report) { r.Reason = "because of" },
		"bad path":         func(r *fleet.Report) { r.StorePath = "/etc" },
		"bad running path": func(r *fleet.Report) { r.Running = "/nix/store" },
		"huge boot id":     func(r *fleet.Report) { r.BootID = strings.Repeat("b", 65) },
	} {
		r := good
		change(&r)
		if err := r.Validate(); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
