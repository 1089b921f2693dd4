// SPDX-License-Identifier: MIT

package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
)

// items is a list in a reply. It is read also of a control plane of another version: a
// field of an item that has the wrong type is left out, or the item as a whole if
// nothing of it can be read. The others go on.
type items[T any] struct {
	list    []T
	leftOut []string // names of fields, and "an item", each once
}

// UnmarshalJSON reads the items one by one.
func (l *items[T]) UnmarshalJSON(b []byte) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	*l = items[T]{list: make([]T, 0, len(raw))}
	for _, text := range raw {
		var v T
		err := json.Unmarshal(text, &v)
		var wrongType *json.UnmarshalTypeError
		missed := ""
		switch {
		case errors.As(err, &wrongType) && wrongType.Field != "":
			missed = fieldOf(err)
			l.list = append(l.list, v)
		case err != nil, string(text) == "null":
			missed = "an item"
		default:
			l.list = append(l.list, v)
		}
		if missed != "" && !slices.Contains(l.leftOut, missed) {
			l.leftOut = append(l.leftOut, missed)
		}
	}
	return nil
}

// fieldOf names the field of the wrong type of a value that was read all the same; ""
// if all was read.
func fieldOf(err error) string {
	var wrongType *json.UnmarshalTypeError
	if !errors.As(err, &wrongType) {
		return ""
	}
	return cmp.Or(wrongType.Field, "a field")
}

func (l *items[T]) missed() []string { return l.leftOut }

func (p *Page[T]) missed() []string { return p.leftOut }

// UnmarshalJSON reads a page as items are read.
func (p *Page[T]) UnmarshalJSON(b []byte) error {
	var read struct {
		Items items[T] `json:"items"`
		Next  string   `json:"next"`
	}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*p = Page[T]{Items: read.Items.list, Next: read.Next, leftOut: read.Items.leftOut}
	return nil
}
