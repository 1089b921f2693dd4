// SPDX-License-Identifier: AGPL-3.0-only

// Package wire reads what agents send, a bounded part at a time, whatever version
// wrote it: what has the wrong type is left out as its smallest part, with a mark. So
// it reads releases, which are large; of them nothing is left out.
//
// It never decides what a machine may do: the caller knows whose certificate it has.
package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of what an agent may send. A report that agents of ours send has at
// most maxReport bytes: they cut it themselves.
const (
	maxCheckIn     = 512 << 10
	MaxReportsSize = 8 << 20
	maxReport      = 1 << 20
	MaxCSR         = 32 << 10
	maxFields      = 64 // of a list of reports: it has one, and newer agents may have more
)

// agentBody reads an agent's request as a stream, so that what is more than may come
// is refused before it takes memory.
type agentBody struct {
	dec   *json.Decoder
	limit int64 // of the whole, in bytes
	// part is how many bytes may still be read for the part at hand.
	part *io.LimitedReader
}

// openBody begins to read a request. Part limits what takes memory at once.
func openBody(w http.ResponseWriter, r *http.Request, limit, part int64) *agentBody {
	b := &agentBody{limit: limit, part: &io.LimitedReader{R: http.MaxBytesReader(w, r.Body, limit), N: part}}
	b.dec = json.NewDecoder(b.part)
	return b
}

// err is what an agent is told of an error of the decoder.
func (b *agentBody) err(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fleet.Errorf(fleet.TooLarge, "request has more than %d bytes", b.limit)
	case b.part.N <= 0:
		return fleet.Errorf(fleet.TooLarge, "a part of the request is too large")
	case errors.Is(err, io.EOF):
		return fleet.Errorf(fleet.Invalid, "request: the JSON value is not whole")
	}
	return fleet.Errorf(fleet.Invalid, "request: %w", err)
}

// value reads the next JSON value into v. Fields of the wrong type are left out, and
// the first of them is named; the others count.
func (b *agentBody) value(v any) (wrong string, err error) {
	var wrongType *json.UnmarshalTypeError
	if err = b.dec.Decode(v); errors.As(err, &wrongType) {
		return fieldName(wrongType.Field), nil
	}
	if err != nil {
		return "", b.err(err)
	}
	return "", nil
}

// fieldName is the name in JSON of a field that encoding/json names with the Go types
// that embed it.
func fieldName(path string) string {
	names := slices.DeleteFunc(strings.Split(path, "."), func(n string) bool { return n == "" || n[0] >= 'A' && n[0] <= 'Z' })
	return cmp.Or(strings.Join(names, "."), "the whole")
}

// leftOut are the fields of a value that could not be read: one of those that stand
// alone, and lists in which something has the wrong type.
func leftOut(field string, lists map[string]bool) []string {
	var names []string
	if field != "" {
		names = append(names, field)
	}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		if lists[name] {
			names = append(names, name)
		}
	}
	return names
}

// delim reads a bracket or brace.
func (b *agentBody) delim(want json.Delim) error {
	t, err := b.dec.Token()
	if err != nil {
		return b.err(err)
	}
	if t != want {
		return fleet.Errorf(fleet.Invalid, "request: expected %q", want.String())
	}
	return nil
}

// end checks that nothing follows.
func (b *agentBody) end() error {
	b.part.N = maxReport
	switch _, err := b.dec.Token(); {
	case err == nil:
		return fleet.Errorf(fleet.Invalid, "request: more text after the JSON value")
	case !errors.Is(err, io.EOF):
		return b.err(err)
	}
	return nil
}

// Decode reads a body that is one value of at most limit bytes. Unknown fields pass, unlike
// operators': an agent may be newer than its control plane, and must not lose
// it for that.
func Decode(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	_, err := decodeInPart(w, r, limit, v)
	return err
}

// decodeInPart names a field that was left out.
func decodeInPart(w http.ResponseWriter, r *http.Request, limit int64, v any) (wrong string, err error) {
	b := openBody(w, r, limit, limit+1)
	if wrong, err = b.value(v); err != nil {
		return "", err
	}
	return wrong, b.end()
}

// shortBody is how long a body may be, in bytes, that is read whole. Those of agents of
// ours are, most often.
const shortBody = 8 << 10

// whole reads a short body into v, which costs a third of reading it by its parts. It
// reports false if the body is longer, is wrong in any way, or is not as usual says: then
// it can be read by its parts.
func whole(r *http.Request, v any, usual func() bool) bool {
	if r.ContentLength < 0 || r.ContentLength > shortBody {
		return false
	}
	b := make([]byte, r.ContentLength)
	n, err := io.ReadFull(r.Body, b)
	if err == nil && json.Unmarshal(b, v) == nil && usual() {
		return true
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b[:n]), r.Body), r.Body}
	return false
}

// usual reports whether reports are of machine m, and none has too much in it.
func usual(m fleet.MachineID, reports []fleet.Report) bool {
	return !slices.ContainsFunc(reports, func(r fleet.Report) bool {
		return r.Machine != m || len(r.Checks) > fleet.MaxChecks || len(r.Failed) > fleet.MaxFailedUnits
	})
}

// CheckIn reads a check-in of machine m. Checks, tags and reports beyond their number
// are left out, and take no memory. A report of another machine (E07) ends it.
func CheckIn(w http.ResponseWriter, r *http.Request, m fleet.MachineID) (api.CheckIn, error) {
	var short api.CheckIn
	if whole(r, &short, func() bool {
		return short.Machine == m && len(short.Checks) <= fleet.MaxChecks && len(short.Tags) <= fleet.MaxTags && len(short.Reports) <= api.MaxRiding && usual(m, short.Reports)
	}) {
		return short, nil
	}
	var in struct {
		api.CheckIn
		Checks  few[result]    `json:"checks"`
		Tags    few[fleet.Tag] `json:"tags"`
		Reports few[report]    `json:"reports"`
	}
	in.Checks.limit, in.Tags.limit, in.Reports.limit = fleet.MaxChecks, fleet.MaxTags, api.MaxRiding
	wrong, err := decodeInPart(w, r, maxCheckIn, &in)
	if err == nil {
		err = Own(m, in.Machine)
	}
	for _, report := range in.Reports.items {
		if err == nil && report.Machine.Valid() {
			err = Own(m, report.Machine)
		}
		in.CheckIn.Reports = append(in.CheckIn.Reports, report.Report)
	}
	in.CheckIn.Checks, in.CheckIn.Tags = results(in.Checks), in.Tags.items
	if names := leftOut(wrong, map[string]bool{"checks": in.Checks.wrong, "tags": in.Tags.wrong, "reports": in.Reports.wrong}); len(names) > 0 {
		in.Waiting = fleet.MarkLeftOut(in.Waiting, names, fleet.MaxWaiting)
	}
	return in.CheckIn, err
}

// Reports reads at most so many reports of machine m, one after the other: the first
// that is one too many, or of another machine (E07), ends it. What cannot be read of one is
// left out of it, with a mark.
func Reports(w http.ResponseWriter, r *http.Request, m fleet.MachineID, most int) ([]fleet.Report, error) {
	var short api.Reports
	if whole(r, &short, func() bool { return len(short.Reports) <= most && usual(m, short.Reports) }) {
		return short.Reports, nil
	}
	b := openBody(w, r, MaxReportsSize, maxReport)
	if err := b.delim('{'); err != nil {
		return nil, err
	}
	var reports []fleet.Report
	for fields := 0; b.dec.More(); fields++ {
		if fields == maxFields {
			return nil, fleet.Errorf(fleet.TooLarge, "request has more than %d fields", maxFields)
		}
		b.part.N = maxReport
		field, err := b.dec.Token()
		if err != nil {
			return nil, b.err(err)
		}
		if field != "reports" {
			if _, err = b.value(&ignored{}); err != nil {
				return nil, err
			}
			continue
		}
		if reports, err = b.reports(reports, m, most); err != nil {
			return nil, err
		}
	}
	if err := b.delim('}'); err != nil {
		return nil, err
	}
	return reports, b.end()
}

// reports reads a list of reports, or null, behind those that came before.
func (b *agentBody) reports(reports []fleet.Report, m fleet.MachineID, most int) ([]fleet.Report, error) {
	switch t, err := b.dec.Token(); {
	case err != nil:
		return nil, b.err(err)
	case t == nil:
		return reports, nil
	case t != json.Delim('['):
		return nil, fleet.Errorf(fleet.Invalid, "request: reports must be a list")
	}
	for b.dec.More() {
		if len(reports) == most {
			return nil, fleet.Errorf(fleet.TooLarge, "more than %d reports at once", most)
		}
		b.part.N = maxReport
		var in report
		if _, err := b.value(&in); err != nil {
			return nil, err
		}
		// One without a name that can be read is refused by itself, further on.
		if in.Machine.Valid() {
			if err := Own(m, in.Machine); err != nil {
				return nil, err
			}
		}
		reports = append(reports, in.Report)
	}
	return reports, b.delim(']')
}

// report is a report of which what cannot be read is left out, with a mark.
type report struct{ fleet.Report }

// UnmarshalJSON is for json.Unmarshaler; b is valid JSON.
func (r *report) UnmarshalJSON(b []byte) error {
	var in struct {
		fleet.Report
		Checks few[result] `json:"checks"`
		Failed few[string] `json:"failedUnits"`
	}
	in.Checks.limit, in.Failed.limit = fleet.MaxChecks, fleet.MaxFailedUnits
	wrong := ""
	var wrongType *json.UnmarshalTypeError
	if err := json.Unmarshal(b, &in); errors.As(err, &wrongType) {
		wrong = fieldName(wrongType.Field)
	} else if err != nil {
		return err
	}
	in.Report.Checks, in.Report.Failed = results(in.Checks), in.Failed.items
	if names := leftOut(wrong, map[string]bool{"checks": in.Checks.wrong, "failedUnits": in.Failed.wrong}); len(names) > 0 {
		in.Message = fleet.MarkLeftOut(in.Message, names, fleet.MaxMessage)
	}
	r.Report = in.Report
	return nil
}

// few is a list in JSON of which the first items count, up to a limit. Of
// lists with the same name the first counts.
type few[T any] struct {
	items []T
	limit int
	read  bool
	wrong bool // something in it has the wrong type
	cut   bool // it has more items, or is no list
}

// UnmarshalJSON is for json.Unmarshaler; b is valid JSON. What is no list has
// no items, and what of an item has the wrong type is left out.
func (f *few[T]) UnmarshalJSON(b []byte) error {
	if f.read {
		return nil
	}
	f.read = true
	dec := json.NewDecoder(bytes.NewReader(b))
	// An error is that of a number that is too large; there is no other.
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		f.wrong = err != nil || t != nil
		f.cut = f.wrong
		return nil
	}
	for dec.More() && len(f.items) < f.limit {
		var item T
		var wrongType *json.UnmarshalTypeError
		if err := dec.Decode(&item); errors.As(err, &wrongType) {
			f.wrong = true
		} else if err != nil {
			return err
		}
		f.items = append(f.items, item)
	}
	f.cut = dec.More()
	return nil
}

// result is the result of a check. One of which it cannot be read whether it is
// required, or what its status is, is required and has no status that counts: it would
// be ignored else, and the machine healthy without it.
type result struct{ fleet.HealthCheckResult }

// unread stands in place of what cannot be read. No list has it.
const unread = "unreadable"

// UnmarshalJSON is for json.Unmarshaler.
func (r *result) UnmarshalJSON(b []byte) error {
	var says struct {
		Status   fleet.HealthCheckStatus `json:"status"`
		Required bool                    `json:"required"`
	}
	err := json.Unmarshal(b, &r.HealthCheckResult)
	if err != nil && json.Unmarshal(b, &says) != nil {
		r.Status, r.Required = unread, true
	}
	return err
}

// results are those of a list. In place of what was cut off stands one that keeps the
// machine from being healthy.
func results(f few[result]) []fleet.HealthCheckResult {
	list := make([]fleet.HealthCheckResult, 0, len(f.items))
	for _, r := range f.items {
		list = append(list, r.HealthCheckResult)
	}
	if f.cut {
		list = append(list[:min(len(list), f.limit-1)], fleet.HealthCheckResult{Name: unread, Kind: unread, Status: unread, Required: true})
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// ignored is a JSON value that nobody reads.
type ignored struct{}

// UnmarshalJSON is for json.Unmarshaler.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// Own refuses a machine whose request is for another one (E07).
func Own(certificate, claimed fleet.MachineID) error {
	if certificate == claimed {
		return nil
	}
	return fleet.Errorf(fleet.Forbidden, "the certificate is that of %s, the request is for another machine", certificate)
}
