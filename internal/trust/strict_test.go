// SPDX-License-Identifier: MIT

package trust_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// doc has a field of each shape that fleet's documents have.
type doc struct {
	Name  string         `json:"name"`
	Count int64          `json:"count"`
	List  []string       `json:"list"`
	Map   map[string]doc `json:"map"`
	Inner *doc           `json:"inner,omitempty"`
	Bytes []byte         `json:"bytes"`
	Plain bool
	Crit  []string `json:"crit,omitempty"`
}

// E06: oversized, truncated and duplicate-key JSON, unknown critical fields.
func TestDecode_RefusesWhatTwoReadersCouldReadDifferently(t *testing.T) {
	deep := func(n int) string { return `{"x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}` }
	for name, c := range map[string]struct {
		in   string
		want fleet.Reason
	}{
		"plain":                        {`{"name":"a","count":-3,"list":["x"],"map":{"k":{"name":"b"}},"Plain":true}`, ""},
		"white space around":           {" \t\r\n{ \"name\" : \"a\" , \"list\" : [ \"x\" , \"y\" ] }\n", ""},
		"unknown fields":               {`{"other":{"deep":[1,2.5e9,null,true,"\u00e9"]},"name":"a"}`, ""},
		"half a pair, the low one":     {`{"name":"\udc00"}`, "malformed"},
		"a high one and a letter":      {`{"name":"\ud800\u0041"}`, "malformed"},
		"a high one and one beyond":    {`{"name":"\ud800\ue000"}`, "malformed"},
		"half a pair in a key":         {`{"\ud800":1}`, "malformed"},
		"null for list, map, pointer":  {`{"list":null,"map":null,"inner":null}`, ""},
		"null for a string":            {`{"name":null}`, "malformed"},
		"null for a number":            {`{"count":null}`, "malformed"},
		"null in a list":               {`{"list":[null]}`, "malformed"},
		"null below a map":             {`{"map":{"k":{"name":null}}}`, "malformed"},
		"null at the top":              {`null`, "malformed"},
		"not an object":                {`["name"]`, "malformed"},
		"empty":                        {``, "malformed"},
		"truncated":                    {`{"name":"a"`, "malformed"},
		"a second value":               {`{"name":"a"}{"name":"b"}`, "malformed"},
		"something after the end":      {`{"name":"a"}x`, "malformed"},
		"a NUL after the end":          {"{\"name\":\"a\"}\x00", "malformed"},
		"byte order mark":              {"\ufeff{\"name\":\"a\"}", "malformed"},
		"a key twice":                  {`{"name":"a","name":"a"}`, "malformed"},
		"a key twice, once escaped":    {`{"name":"a","n\u0061me":"b"}`, "malformed"},
		"an unknown key twice":         {`{"z":1,"z":2}`, "malformed"},
		"a key twice, far below":       {`{"x":[{"y":{"z":1,"z":1}}]}`, "malformed"},
		"a key twice in a map":         {`{"map":{"k":{},"k":{}}}`, "malformed"},
		"the same key in two objects":  {`{"map":{"k":{"name":"a"},"l":{"name":"a"}}}`, ""},
		"wrong case":                   {`{"Name":"a"}`, "malformed"},
		"wrong case beside the right":  {`{"name":"a","NAME":"b"}`, "malformed"},
		"wrong case, Kelvin sign":      {`{"mar\u212a":1,"li\u017ft":["x"]}`, "malformed"},
		"wrong case, untagged field":   {`{"plain":true}`, "malformed"},
		"wrong case below a map":       {`{"map":{"k":{"NAME":"a"}}}`, "malformed"},
		"wrong case below a pointer":   {`{"inner":{"Count":1}}`, "malformed"},
		"map keys in any case":         {`{"map":{"Name":{},"name":{}}}`, ""},
		"wrong case in unknown object": {`{"x":{"Name":1,"name":2}}`, ""},
		"deep enough":                  {deep(trust.MaxDepth), ""},
		"too deep":                     {deep(trust.MaxDepth + 1), "malformed"},
		"objects deep enough":          {strings.Repeat(`{"x":`, trust.MaxDepth-1) + "{}" + strings.Repeat("}", trust.MaxDepth-1), ""},
		"objects too deep":             {strings.Repeat(`{"x":`, trust.MaxDepth) + "{}" + strings.Repeat("}", trust.MaxDepth), "malformed"},
		"far too deep":                 {deep(49_000), "malformed"},
		"bad UTF-8 in a value":         {"{\"name\":\"\xff\"}", "malformed"},
		"bad UTF-8 in an unknown key":  {"{\"\xc0\x80\":1}", "malformed"},
		"half a surrogate pair":        {`{"name":"\ud83d"}`, "malformed"},
		"halves in the wrong order":    {`{"name":"\udc00\ud83d"}`, "malformed"},
		"half a pair, then text":       {`{"name":"\ud83dabcdef"}`, "malformed"},
		"half a pair at the end":       {`{"x":"\\\ud83d"}`, "malformed"},
		"a whole surrogate pair":       {`{"name":"\ud83d\ude00\\ud83d"}`, ""},
		"a string for a number":        {`{"count":"3"}`, "malformed"},
		"a fraction for an integer":    {`{"count":1.5}`, "malformed"},
		"an integer that overflows":    {`{"count":9223372036854775808}`, "malformed"},
		"a list for a map":             {`{"map":[]}`, "malformed"},
		"base64":                       {`{"bytes":"AAE="}`, ""},
		"base64 without padding":       {`{"bytes":"AAE"}`, "malformed"},
		"base64 with spare bits":       {`{"bytes":"AAF="}`, "malformed"},
		"base64 with a line break":     {`{"bytes":"AA\nE="}`, "malformed"},
		"base64 with an escape":        {`{"bytes":"AAE\u003d"}`, "malformed"},
		"base64 for URLs":              {`{"bytes":"_-8="}`, "malformed"},
		"crit names known fields":      {`{"name":"a","crit":["name","count","crit"]}`, ""},
		"crit names an unknown field":  {`{"future":1,"crit":["name","future"]}`, "critical-field"},
		"crit names nothing there":     {`{"crit":["future"]}`, "critical-field"},
		"crit in the wrong case":       {`{"Crit":["future"]}`, "malformed"},
		"crit is not a list":           {`{"crit":"future"}`, "malformed"},
		"unknown field, not critical":  {`{"future":1,"crit":["name"]}`, ""},
		"too large":                    {`{"name":"` + strings.Repeat("a", 100_000) + `"}`, "too-large"},
	} {
		t.Run(name, func(t *testing.T) {
			var d doc
			err := trust.Decode([]byte(c.in), 100_000, &d)
			if got := trust.ReasonOf(err); got != c.want || (err == nil) != (c.want == "") {
				t.Errorf("got %v, want reason %q", err, c.want)
			}
		})
	}
}

func TestDecode_ReadsWhatEncodingJSONReads(t *testing.T) {
	in := []byte(`{"name":"a\u00e9\n","count":42,"list":["x","\ud83d\ude00"],"map":{"k":{"count":1}},"bytes":"AAE=","other":[{}]}`)
	var got, want doc
	if err := trust.Decode(in, 1000, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(in, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzDecode compares with a second, slow reader. In what Decode accepts, a walk
// over the tokens of encoding/json must find no key twice, and encoding and
// decoding again must not change it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","count":1,"list":["b"],"map":{"k":{}},"crit":["name"]}`))
	f.Add([]byte(`{"n\u0061me":"\ud83d\ude00","x":[[],{"y":null}]}`))
	f.Add([]byte(`{"bytes":"AAE=","Name":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d doc
		if err := trust.Decode(data, 4096, &d); err != nil {
			if !trust.ReasonOf(err).Valid() {
				t.Fatalf("no reason: %v", err)
			}
			return
		}
		if depth, twice := walk(t, data); twice || depth > trust.MaxDepth {
			t.Fatalf("accepted with depth %d, key twice: %v", depth, twice)
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var e doc
		if err := json.Unmarshal(again, &e); err != nil || !reflect.DeepEqual(normal(d), normal(e)) {
			t.Fatalf("%s became %s (%v)", data, again, err)
		}
	})
}

// normal makes nil and empty lists equal.
func normal(d doc) string {
	b, _ := json.Marshal(d)
	return strings.NewReplacer("null", "", "[]", "", "{}", "", `""`, "").Replace(string(b))
}

func walk(t *testing.T, data []byte) (depth int, twice bool) {
	type level struct {
		keys  map[string]bool
		isKey bool
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	stack := []level{}
	for {
		tok, err := dec.Token()
		if err != nil {
			return depth, twice
		}
		top := len(stack) - 1
		if delim, ok := tok.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 && stack[top].keys != nil {
			if stack[top].isKey {
				key, ok := tok.(string)
				if !ok {
					t.Fatalf("key %v", tok)
				}
				twice = twice || stack[top].keys[key]
				stack[top].keys[key] = true
			}
			stack[top].isKey = !stack[top].isKey
			if !stack[top].isKey {
				continue // that was a key
			}
		}
		if delim, ok := tok.(json.Delim); ok {
			l := level{}
			if delim == '{' {
				l = level{keys: map[string]bool{}, isKey: true}
			}
			stack = append(stack, l)
			depth = max(depth, len(stack))
		}
	}
}
