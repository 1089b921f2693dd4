// SPDX-License-Identifier: MIT

package fleet_test

import (
	"encoding/json"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/arcanesys/nixfleet/fleet"
)

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' })
}

// FuzzNames reads what names things on the wire: what is taken is the text as it
// came, safe in a path, a URL and a terminal.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"web-01", "-a", "main", string(fleet.SHA256(nil)), "/nix/store/00000000000000000000000000000000-a", "/nix/store/00000000000000000000000000000000-../a",
		"/nix/store/00000000000000000000000000000000-.", "sha256:" + strings.Repeat("z", 52), "site/paris", "a/../b", "@web", "!web-*", "[a", "25%", "+1", "0x1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names := map[string]func() (string, error){
			"machine":    func() (string, error) { v, err := fleet.ParseMachineID(s); return string(v), err },
			"digest":     func() (string, error) { v, err := fleet.ParseDigest(s); return string(v), err },
			"store path": func() (string, error) { v, err := fleet.ParseStorePath(s); return string(v), err },
			"amount": func() (string, error) {
				var v fleet.Amount
				err := v.UnmarshalText([]byte(s))
				return v.String(), err
			},
			"selector": func() (string, error) {
				v, err := fleet.ParseSelector([]string{s})
				if err != nil {
					return "", err
				}
				v.Match("web-01", []fleet.Tag{"web"})
				return v[0].String(), nil
			},
		}
		for kind, parse := range names {
			got, err := parse()
			if err != nil {
				if fleet.ErrorCode(err) != fleet.Invalid || len(err.Error()) > 2000 || hasControl(err.Error()) {
					t.Fatalf("%s %q: error %q with code %q", kind, s, err, fleet.ErrorCode(err))
				}
				continue
			}
			if got != s || len(s) > 300 || hasControl(s) || strings.ContainsAny(s, " \n\t\"'\\") {
				t.Fatalf("%s: %q was read as %q", kind, s, got)
			}
			if kind == "store path" && (path.Clean(s) != s || path.Dir(s) != fleet.StoreDir) {
				t.Fatalf("%q is not directly in the store", s)
			}
		}
		for _, valid := range []bool{fleet.Line(s).Valid(), fleet.Tag(s).Valid(), fleet.NarHash(s).Valid(), fleet.System(s).Valid(), fleet.RolloutID(s).Valid()} {
			if valid && (len(s) > 64 || hasControl(s) || strings.ContainsAny(s, " \n\t\"'\\%?#")) {
				t.Fatalf("%q counts as a name", s)
			}
		}
	})
}

// FuzzReport reads a report as a machine may send it, and a machine's status.
// Whatever it says, once clean it is bounded, has no control characters, and
// stays as it is when it is cleaned again or travels (A15).
func FuzzReport(f *testing.F) {
	for _, s := range []string{
		`{"id":"1","machine":"web-01","kind":"drift","message":"\u001b[31m"}`,
		`{"id":"1","machine":"web-01","kind":"outcome","outcome":"live","checks":[{"name":"a\u0000","status":"passing"}],"failedUnits":["a\u009b.service"]}`,
		`{"waiting":"a","claimedTags":["web","\u001b"],"running":"/etc","checks":[{"required":true}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r fleet.Report
		var m fleet.Machine
		if json.Unmarshal(data, &r) == nil {
			r.Clean()
			cleanReport(t, r)
		}
		if json.Unmarshal(data, &m) == nil {
			m.CleanStatus()
			said := append([]string{m.Waiting, m.BootID, m.AgentVersion, string(m.State), string(m.System), string(m.Line), string(m.Running)}, texts(m.Checks)...)
			for _, tag := range m.ClaimedTags {
				said = append(said, string(tag))
			}
			if i := slices.IndexFunc(said, hasControl); i >= 0 || len(m.Waiting) > fleet.MaxWaiting || len(m.ClaimedTags) > fleet.MaxTags || len(m.Checks) > fleet.MaxChecks {
				t.Fatalf("%s became %+v", data, m)
			}
			again := m
			if again.CleanStatus(); !reflect.DeepEqual(again, m) {
				t.Fatalf("cleaned again, %+v became %+v", m, again)
			}
		}
	})
}

func texts(checks []fleet.HealthCheckResult) []string {
	var out []string
	for _, c := range checks {
		out = append(out, c.Name, string(c.Kind), string(c.Status), c.Observed)
	}
	return out
}

func cleanReport(t *testing.T, r fleet.Report) {
	t.Helper()
	said := slices.Concat([]string{r.Message, r.BootID, r.Confirmed, string(r.Kind), string(r.Phase), string(r.Outcome), string(r.Reason), string(r.StorePath), string(r.Running)}, r.Failed, texts(r.Checks))
	if i := slices.IndexFunc(said, hasControl); i >= 0 {
		t.Fatalf("%q came through", said[i])
	}
	if len(r.Message) > fleet.MaxMessage || len(r.Checks) > fleet.MaxChecks || len(r.Failed) > fleet.MaxFailedUnits || len(r.BootID) > fleet.MaxBootID {
		t.Fatalf("beyond its limits: %+v", r)
	}
	if r.Validate() == nil && (hasControl(r.ID) || hasControl(string(r.Rollout)) || hasControl(string(r.Digest))) {
		t.Fatalf("valid, with control characters: %+v", r)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back fleet.Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	back.Clean()
	if again, err := json.Marshal(back); err != nil || string(again) != string(text) {
		t.Fatalf("%s became %s, %v", text, again, err)
	}
}

// FuzzAudit feeds a chain what a control plane might send: only entries of the
// chain are counted, and what is refused changes nothing (E10).
func FuzzAudit(f *testing.F) {
	body := `{"at":1,"actor":"a","action":"b","subject":"c"}`
	f.Add(int64(1), body, string(fleet.AuditHash(1, "", body)))
	f.Add(int64(2), body, string(fleet.AuditHash(1, "", body)))
	f.Add(int64(1), "7", string(fleet.AuditHash(1, "", "7")))
	f.Fuzz(func(t *testing.T, seq int64, body, hash string) {
		e := fleet.AuditEntry{Seq: seq, Body: body, Hash: fleet.Digest(hash)}
		var c fleet.AuditChain
		if err := c.Add(e); err != nil {
			if c != (fleet.AuditChain{}) || fleet.ErrorCode(err) != fleet.Conflict {
				t.Fatalf("refused with %v, and the chain is %+v", err, c)
			}
		} else if seq != 1 || e.Hash != fleet.AuditHash(1, "", body) || c.Size != 1 {
			t.Fatalf("%+v was taken", e)
		}
		v, err := e.Event()
		if err != nil {
			return
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		back, err := fleet.AuditEntry{Body: string(text)}.Event()
		if again, _ := json.Marshal(back); err != nil || string(again) != string(text) {
			t.Fatalf("%s became %s, %v", text, again, err)
		}
	})
}

// FuzzCalendar reads windows and blackouts of any text: one that is taken opens
// where it says that it opens next, and is closed before.
func FuzzCalendar(f *testing.F) {
	for _, s := range []string{
		"30 2 * * 0 2h Europe/Berlin", "*/7 1-4/2 29 feb mon,3 90m Australia/Lord_Howe", "2026-12-24T00:00/2026-12-27T00:00 Pacific/Apia", "0 3 30 2 * 2h", "* * * * * 1ns",
	} {
		f.Add(s, int64(1_774_742_400))
	}
	f.Fuzz(func(t *testing.T, s string, at int64) {
		if _, err := fleet.ParseCron(s); err != nil && (fleet.ErrorCode(err) != fleet.Invalid || hasControl(err.Error())) {
			t.Fatalf("%q: %v", s, err)
		}
		c, err := fleet.ParseCalendar([]string{s}, nil)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || len(err.Error()) > 2000 || hasControl(err.Error()) {
				t.Fatalf("%q: error %q with code %q", s, err, fleet.ErrorCode(err))
			}
			return
		}
		now := time.Unix(1_700_000_000+at%1_000_000_000, 0)
		next := c.Next(now)
		if next.IsZero() {
			return
		}
		if next.Before(now) || !c.Open(next) || next.After(now) && c.Open(now) || !c.Closes(next).After(next) {
			t.Fatalf("%q: at %s next is %s, closes %s", s, now, next, c.Closes(next))
		}
	})
}
