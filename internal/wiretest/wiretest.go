// SPDX-License-Identifier: MIT

// Package wiretest changes JSON as a program of another version, or one with a fault,
// would write it: for tests of what reads it.
package wiretest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// place is a value in a document.
type place struct {
	path []string
	was  any
	set  func(any)
}

// Change makes one change in a JSON document, at any place: a field that no version
// has, or another value than there was: of another type, a word of a later version, or
// text that no word is. It returns the path of what changed, in the form
// checks.0.status. A value in keep stays as it is.
func Change(t *rapid.T, document []byte, keep ...string) (changed []byte, path string) {
	var root any
	if err := json.Unmarshal(document, &root); err != nil {
		t.Fatalf("read %s: %v", document, err)
	}
	var places []place
	walk(root, nil, nil, func(p place) {
		if !slices.Contains(keep, strings.Join(p.path, ".")) {
			places = append(places, p)
		}
	})
	p := rapid.SampledFrom(places).Draw(t, "place")
	path = strings.Join(p.path, ".")
	if m, ok := p.was.(map[string]any); ok && (p.set == nil || rapid.Bool().Draw(t, "add a field")) {
		m["later"] = other(t, nil)
	} else {
		p.set(other(t, p.was))
	}
	changed, err := json.Marshal(root)
	if err != nil {
		t.Fatalf("write %v: %v", root, err)
	}
	return changed, path
}

// walk visits every value; the whole has no set.
func walk(v any, path []string, set func(any), visit func(place)) {
	visit(place{path, v, set})
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			walk(v[name], append(slices.Clone(path), name), func(to any) { v[name] = to }, visit)
		}
	case []any:
		for i := range v {
			walk(v[i], append(slices.Clone(path), strconv.Itoa(i)), func(to any) { v[i] = to }, visit)
		}
	}
}

// other is a value that is not right in place of another.
func other(t *rapid.T, was any) any {
	values := []any{
		"splendid", "", "UPPER case", "\x1b[31m\n\x00", strings.Repeat("long", 300), "../../etc/passwd",
		true, false, 7.0, -1.0, 2.5, json.Number("1e400"), json.Number("92233720368547758089"), nil,
		[]any{}, []any{"splendid", 7.0, nil, map[string]any{}}, map[string]any{}, map[string]any{"status": "splendid", "a": []any{map[string]any{"b": 1.0}}},
	}
	return rapid.SampledFrom(slices.DeleteFunc(values, func(v any) bool {
		switch was.(type) {
		case bool:
			_, same := v.(bool)
			return same || v == nil // which is as if it were not there
		case float64:
			_, same := v.(float64)
			return same
		case []any:
			_, same := v.([]any)
			return same || v == nil
		case map[string]any:
			_, same := v.(map[string]any)
			return same || v == nil
		}
		return false
	})).Draw(t, "value")
}

// Again fails if a value changes when it travels once more.
func Again[T any](t *testing.T, v T, read func(body []byte) (T, error)) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	back, err := read(text)
	if err != nil {
		t.Fatalf("%s was read, and not again: %v", text, err)
	}
	if next, err := json.Marshal(back); err != nil || !bytes.Equal(next, text) {
		t.Fatalf("%s became %s, %v", text, next, err)
	}
}
