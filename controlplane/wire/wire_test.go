// SPDX-License-Identifier: AGPL-3.0-only

package wire

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// most is how many reports are taken at once.
const most = 1000

// filled is a body of the largest size that a request may have: head, as many
// items as fit, tail.
func filled(head, item, tail string) []byte {
	return filledTo(MaxReportsSize, head, item, tail)
}

func filledTo(size int, head, item, tail string) []byte {
	n := (size - len(head) - len(tail)) / (len(item) + 1)
	return slices.Concat([]byte(head), bytes.Repeat([]byte(item+","), n-1), []byte(item+tail))
}

// allocated is how many bytes fn allocates, whether they are freed or not.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func post(body []byte) (*httptest.ResponseRecorder, *http.Request) {
	return httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
}

// hostileReports are bodies of 8 MiB that ask for as much memory as they can.
func hostileReports() map[string][]byte {
	own := `{"machine":"web-01"}`
	return map[string][]byte{
		"reports of nobody": filled(`{"reports":[`, `{}`, `]}`),
		"own reports":       filled(`{"reports":[`, own, `]}`),
		"lists of reports":  filled(`{`, `"reports":[`+own+`]`, `}`),
		"checks":            filled(`{"reports":[{"machine":"web-01","checks":[`, `{}`, `]}]}`),
		"lists of checks":   filled(`{"reports":[{"machine":"web-01",`, `"checks":[{},{}]`, `}]}`),
		"failed units":      filled(`{"reports":[{"machine":"web-01","failedUnits":[`, `""`, `]}]}`),
		"one message":       filled(`{"reports":[{"machine":"web-01","message":"`, `aaaaaaa`, `"}]}`),
		"messages":          filled(`{"reports":[`, `{"machine":"web-01","message":"`+strings.Repeat("a", 7000)+`"}`, `]}`),
		"one unknown field": filled(`{"mood":[`, `{}`, `]}`),
		"unknown fields":    filled(`{`, `"mood":{}`, `}`),
		"depth":             bytes.Repeat([]byte(`[`), MaxReportsSize),
		"depth in a field":  append([]byte(`{"mood":`), bytes.Repeat([]byte(`[`), MaxReportsSize-8)...),
		"numbers":           filled(`{"reports":[`, `7`, `]}`),
	}
}

// Items are counted while they are decoded: however many a body of 8 MiB has,
// it takes a bounded amount of memory, and so do four at once.
func TestDecodeReports_TakesBoundedMemory(t *testing.T) {
	const limit = 24 << 20 // all that is allocated; most of it is garbage at once
	for name, body := range hostileReports() {
		t.Run(name, func(t *testing.T) {
			w, r := post(body)
			var reports []fleet.Report
			var err error
			if got := allocated(func() { reports, err = Reports(w, r, "web-01", most) }); got > limit {
				t.Errorf("allocated %d KiB, want %d at most", got>>10, limit>>10)
			}
			if len(reports) > most {
				t.Errorf("%d reports came through", len(reports))
			}
			if err == nil {
				t.Errorf("%d reports were taken, want an error", len(reports))
			}
			got := allocated(func() {
				var wg sync.WaitGroup
				for range 4 {
					w, r := post(body)
					wg.Go(func() { _, _ = Reports(w, r, "web-01", most) })
				}
				wg.Wait()
			})
			if got > 4*limit {
				t.Errorf("four at once allocated %d KiB, want %d at most", got>>10, 4*limit>>10)
			}
		})
	}
}

func TestDecodeCheckIn_TakesBoundedMemory(t *testing.T) {
	const limit = 5 << 20
	for name, body := range map[string][]byte{
		"checks":         filledTo(maxCheckIn, `{"machine":"web-01","checks":[`, `{}`, `]}`),
		"lists":          filledTo(maxCheckIn, `{"machine":"web-01",`, `"checks":[{}]`, `}`),
		"tags":           filledTo(maxCheckIn, `{"machine":"web-01","tags":[`, `""`, `]}`),
		"reports":        filledTo(maxCheckIn, `{"machine":"web-01","reports":[`, `{}`, `]}`),
		"checks of one":  filledTo(maxCheckIn, `{"machine":"web-01","reports":[{"checks":[`, `{}`, `]}]}`),
		"unknown fields": filledTo(maxCheckIn, `{"machine":"web-01",`, `"mood":{}`, `}`),
	} {
		w, r := post(body)
		got := allocated(func() {
			in, err := CheckIn(w, r, "web-01")
			if err != nil || in.Machine != "web-01" || len(in.Checks) > fleet.MaxChecks || len(in.Tags) > fleet.MaxTags || len(in.Reports) > api.MaxRiding {
				t.Errorf("%s: %v, %d checks, %d tags", name, err, len(in.Checks), len(in.Tags))
			}
		})
		if got > limit {
			t.Errorf("%s: allocated %d KiB, want %d at most", name, got>>10, limit>>10)
		}
	}
}

// A field of the wrong type is left out, with a mark; the report, and those behind it,
// count. What cannot be read of a check never makes it count less.
func TestDecodeReports_KeepsTheRestOfAReport(t *testing.T) {
	w, r := post([]byte(`{"later":{"a":[1]},"reports":[
		{"machine":"web-01","id":"1","kind":"outcome","attempt":"first","message":"m","checks":{"name":"a"},"failedUnits":["a.service",7]},
		{"machine":"web-01","id":"2","kind":"drift","at":1e999,"checks":[{"name":"a","failures":"many","status":"passing"}]}],"more":1}` + "\n"))
	got, err := Reports(w, r, "web-01", most)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d reports, %v", len(got), err)
	}
	if a := got[0]; a.ID != "1" || a.Kind != fleet.ReportOutcome || a.Message != "m\n[left out, not valid: attempt, checks, failedUnits]" || a.Attempt != 0 || len(a.Checks) != 1 || !a.Checks[0].Required || fleet.HealthOf(a.Checks) != fleet.HealthPending || len(a.Failed) != 2 || a.Failed[0] != "a.service" {
		t.Errorf("the first report is %+v", a)
	}
	if b := got[1]; b.ID != "2" || b.Kind != fleet.ReportDrift || len(b.Checks) != 1 || b.Checks[0].Name != "a" || b.Checks[0].Status != fleet.HealthCheckPassing {
		t.Errorf("the second report is %+v", b)
	}
}

func TestDecodeReports_SaysWhatIsWrong(t *testing.T) {
	own := `{"machine":"web-01"}`
	many := strings.Repeat(own+",", most)
	long := strings.Repeat(" ", shortBody) // it is read by its parts
	for _, tt := range []struct {
		name, body string
		want       fleet.Code
		says       string
	}{
		{"the most", `{"reports":[` + strings.TrimSuffix(many, ",") + `]}`, "", ""},
		{"one more", `{"reports":[` + many + own + `]}`, fleet.TooLarge, "more than 1000 reports"},
		{"one more in two lists", `{"reports":[` + strings.TrimSuffix(many, ",") + `],"reports":[` + own + `]}`, fleet.TooLarge, "more than 1000 reports"},
		{"a large report", `{"reports":[{"machine":"web-01","message":"` + strings.Repeat("a", 2*maxReport) + `"}]}`, fleet.TooLarge, "a part of the request"},
		{"a large request", strings.Repeat(" ", MaxReportsSize+1), fleet.TooLarge, ""},
		{"another machine", `{"reports":[{"machine":"db-01"}]}`, fleet.Forbidden, "web-01"}, // E07
		{"a large value that is no list", `{"reports":"` + strings.Repeat("a", 2*maxReport) + `"}`, fleet.TooLarge, "a part of the request"},
		{"cut short", `{"reports":[` + own, fleet.Invalid, "not whole"},
		{"cut behind its list", `{"reports":[` + own + `]`, fleet.Invalid, "not whole"},
		{"no list", `{"reports":7}`, fleet.Invalid, "list"},
		{"a list", `[]`, fleet.Invalid, `expected "{"`},
		{"no JSON", `reports`, fleet.Invalid, "request"},
		{"nothing", ``, fleet.Invalid, "not whole"},
		{"two values", `{"reports":[]}{}`, fleet.Invalid, "after"},
		{"a value and what is none", `{"reports":[]}x`, fleet.Invalid, "request"},
		{"as many fields as may be", `{` + strings.TrimSuffix(strings.Repeat(`"x":0,`, maxFields), ",") + `}` + long, "", ""},
		{"a field more", `{` + strings.Repeat(`"x":0,`, maxFields) + `"x":0}` + long, fleet.TooLarge, "more than 64 fields"},
		{"a field without a name", `{"reports":[],7:0}`, fleet.Invalid, "request"},
		{"a field without an end", `{"reports":[],"x":[}`, fleet.Invalid, "request"},
		{"a field without a bottom", `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, fleet.Invalid, "max depth"},
		{"a list without an end", `{"reports":[` + own + `}`, fleet.Invalid, "request"},
		{"none", `{}`, "", ""},
		{"null", `{"reports":null}`, "", ""},
	} {
		w, r := post([]byte(tt.body))
		_, err := Reports(w, r, "web-01", most)
		if fleet.ErrorCode(err) != tt.want || tt.says != "" && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v (code %q), want code %q with %q", tt.name, err, fleet.ErrorCode(err), tt.want, tt.says)
		}
	}
}
