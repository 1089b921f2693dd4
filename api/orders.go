// SPDX-License-Identifier: MIT

package api

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxUnknownOrders is how many orders that this version does not know are named.
const maxUnknownOrders = 8

// UnmarshalJSON reads orders also of a control plane of another version: what has the
// wrong type is left out, and LeftOut names it; the rest counts. An order with a field
// of the wrong type is left out whole: without that field it could be another order.
// One that this version does not know is named too. Other fields that it does not know
// are not read.
func (o *Orders) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	*o = Orders{}
	readField(o, fields, "etag", &o.Etag, false)
	readField(o, fields, "epoch", &o.Epoch, false)
	readField(o, fields, "prefetch", &o.Prefetch, false)
	readField(o, fields, "apply", &o.Apply, false)
	readField(o, fields, "revert", &o.Revert, false)
	readField(o, fields, "documents", &o.Documents, true)
	readField(o, fields, "grants", &o.Grants, true)
	readField(o, fields, "pollAfterMs", &o.PollAfterMs, false)
	readField(o, fields, "waitMs", &o.WaitMs, false)
	readField(o, fields, "reports", &o.Reports, true)
	unknown := 0
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var order fleet.Order
		if readable(json.Unmarshal(fields[name], &order)) && order.Digest != "" && order.Rollout != "" {
			if unknown++; unknown <= maxUnknownOrders {
				o.LeftOut = append(o.LeftOut, "the unknown order "+fleet.CleanLine(name, fleet.MaxWord))
			}
		}
	}
	return nil
}

// readField reads a field and takes it out of fields. If it has the wrong type, o says
// so, and it stays empty: or in part, if its parts stand for themselves.
func readField[T any](o *Orders, fields map[string]json.RawMessage, name string, v *T, inPart bool) {
	raw, ok := fields[name]
	if !ok {
		return
	}
	delete(fields, name)
	var read T
	err := json.Unmarshal(raw, &read)
	if err != nil {
		o.LeftOut = append(o.LeftOut, name)
	}
	if err == nil || inPart && readable(err) {
		*v = read
	}
}

// readable reports whether a value was read, apart from fields of the wrong type.
func readable(err error) bool {
	var wrongType *json.UnmarshalTypeError
	return err == nil || errors.As(err, &wrongType)
}
