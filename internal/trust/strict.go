// SPDX-License-Identifier: MIT

package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/arcanesys/nixfleet/fleet"
)

// MaxDepth is how deep arrays and objects of a document may be nested.
const MaxDepth = 32

// Decode reads the JSON text of one document into v, a pointer to a struct,
// more strictly than encoding/json, so that no two readers can understand the
// same bytes differently: the size (in bytes) is checked before anything is
// read, then UTF-8, one value with nothing but white space after it, a depth
// of at most MaxDepth, no key twice in an object, names spelled exactly, null
// only for lists, maps and pointers, and base64 in its one canonical form.
// Unknown fields are ignored, unless the document's own crit list names them.
// Errors are Refusals: too-large, malformed or critical-field.
func Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return refuse(fleet.ReasonTooLarge, "%d bytes, at most %d", len(data), limit)
	}
	if !utf8.Valid(data) {
		return refuse(fleet.ReasonMalformed, "not UTF-8")
	}
	if !json.Valid(data) {
		return refuse(fleet.ReasonMalformed, "not one complete JSON value")
	}
	t := reflect.TypeOf(v).Elem()
	s := scanner{data: data}
	s.space()
	if data[s.pos] != '{' {
		return refuse(fleet.ReasonMalformed, "not a JSON object")
	}
	if r := s.value(t, 0); r != nil {
		return r
	}
	if err := json.Unmarshal(data, v); err != nil {
		return refuse(fleet.ReasonMalformed, "%v", err)
	}
	return checkCrit(t, reflect.ValueOf(v).Elem())
}

// checkCrit refuses a document whose crit list names a field that its type does
// not have.
func checkCrit(t reflect.Type, v reflect.Value) error {
	fields := fieldsOf(t)
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == "crit" })
	if i < 0 {
		return nil
	}
	for _, name := range v.FieldByIndex(fields[i].index).Interface().([]string) {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
			return refuse(fleet.ReasonCriticalField, "field %q is critical, and this version does not know it", name)
		}
	}
	return nil
}

// field is a field of a struct as encoding/json names it.
type field struct {
	name  string
	typ   reflect.Type
	index []int
}

func fieldsOf(t reflect.Type) []field {
	fields := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		fields = append(fields, field{name, f.Type, f.Index})
	}
	return fields
}

// scanner walks over text that json.Valid has accepted, so it does not look for
// syntax errors. Types are nil below unknown fields.
type scanner struct {
	data []byte
	pos  int
}

func (s *scanner) space() {
	for s.pos < len(s.data) && strings.IndexByte(" \t\r\n", s.data[s.pos]) >= 0 {
		s.pos++
	}
}

// next skips white space, then returns the byte there.
func (s *scanner) next() byte {
	s.space()
	return s.data[s.pos]
}

func (s *scanner) value(t reflect.Type, depth int) *Refusal {
	nullable := t == nil || t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch s.next() {
	case '{':
		return s.object(t, depth+1)
	case '[':
		return s.array(t, depth+1)
	case '"':
		raw, r := s.text()
		if r != nil {
			return r
		}
		if isBytes(t) && !canonicalBase64(raw) {
			return refuse(fleet.ReasonMalformed, "not canonical base64 at byte %d", s.pos)
		}
		return nil
	case 'n':
		s.pos += len("null")
		if !nullable {
			return refuse(fleet.ReasonMalformed, "null at byte %d", s.pos)
		}
		return nil
	}
	for s.pos < len(s.data) && strings.IndexByte(" \t\r\n,]}", s.data[s.pos]) < 0 {
		s.pos++
	}
	return nil
}

func (s *scanner) array(t reflect.Type, depth int) *Refusal {
	if depth > MaxDepth {
		return refuse(fleet.ReasonMalformed, "nested deeper than %d", MaxDepth)
	}
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Slice {
		elem = t.Elem()
	}
	for s.pos++; s.next() != ']'; {
		if s.data[s.pos] == ',' {
			s.pos++
		}
		if r := s.value(elem, depth); r != nil {
			return r
		}
	}
	s.pos++
	return nil
}

func (s *scanner) object(t reflect.Type, depth int) *Refusal {
	if depth > MaxDepth {
		return refuse(fleet.ReasonMalformed, "nested deeper than %d", MaxDepth)
	}
	var fields []field
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	}
	if t != nil && t.Kind() == reflect.Map {
		elem = t.Elem()
	}
	seen := make(map[string]struct{}, len(fields))
	for s.pos++; s.next() != '}'; {
		if s.data[s.pos] == ',' {
			s.pos++
		}
		s.space()
		raw, r := s.text()
		if r != nil {
			return r
		}
		key := unquote(raw)
		if _, twice := seen[key]; twice {
			return refuse(fleet.ReasonMalformed, "key %q twice in one object", key)
		}
		seen[key] = struct{}{}
		typ, r := typeOf(fields, elem, key)
		if r != nil {
			return r
		}
		s.next() // the colon
		s.pos++
		if r := s.value(typ, depth); r != nil {
			return r
		}
	}
	s.pos++
	return nil
}

// typeOf returns the type that the value of key must have; nil means any type.
// Unlike encoding/json, it refuses a field's name in another case.
func typeOf(fields []field, elem reflect.Type, key string) (reflect.Type, *Refusal) {
	for _, f := range fields {
		if f.name == key {
			return f.typ, nil
		}
	}
	for _, f := range fields {
		if strings.EqualFold(f.name, key) {
			return nil, refuse(fleet.ReasonMalformed, "key %q must be spelled %q", key, f.name)
		}
	}
	return elem, nil
}

// text returns the string at pos with its quotes and steps over it. It refuses a
// lone surrogate, which has no UTF-8 form, so that readers disagree about it.
func (s *scanner) text() ([]byte, *Refusal) {
	start := s.pos
	for s.pos++; s.data[s.pos] != '"'; s.pos++ {
		if s.data[s.pos] != '\\' {
			continue
		}
		s.pos++
		if s.data[s.pos] != 'u' {
			continue
		}
		switch hi := s.hex4(s.pos + 1); {
		case hi >= 0xdc00 && hi <= 0xdfff:
			return nil, refuse(fleet.ReasonMalformed, "half of a surrogate pair at byte %d", s.pos)
		case hi >= 0xd800 && hi <= 0xdbff:
			low := s.pos + 5
			if !bytes.HasPrefix(s.data[low:], []byte(`\u`)) || s.hex4(low+2) < 0xdc00 || s.hex4(low+2) > 0xdfff {
				return nil, refuse(fleet.ReasonMalformed, "half of a surrogate pair at byte %d", s.pos)
			}
			s.pos = low + 1
		}
		s.pos += 4
	}
	s.pos++
	return s.data[start:s.pos], nil
}

// hex4 returns the number in the four hex digits at i; json.Valid has seen
// that they follow a \u.
func (s *scanner) hex4(i int) uint64 {
	n, _ := strconv.ParseUint(string(s.data[i:i+4]), 16, 32)
	return n
}

// unquote returns the text of a valid JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var key string
	// The error is impossible: json.Valid accepted the text.
	_ = json.Unmarshal(raw, &key)
	return key
}

func isBytes(t reflect.Type) bool {
	return t != nil && t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// canonicalBase64 reports whether raw, a JSON string, is the one text that
// standard base64 with padding has for its bytes. The decoder of encoding/json
// skips line breaks and ignores the spare bits at the end.
func canonicalBase64(raw []byte) bool {
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		return false
	}
	_, err := base64.StdEncoding.Strict().Decode(make([]byte, base64.StdEncoding.DecodedLen(len(text))), text)
	return err == nil
}
