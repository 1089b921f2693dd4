// SPDX-License-Identifier: MIT

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// HeartbeatEvery is how often the control plane writes to an event stream that
// has nothing to tell.
const HeartbeatEvery = 15 * time.Second

const (
	quietLimit = 3*HeartbeatEvery + 5*time.Second // then the connection is dead
	maxEvent   = 4 << 20
)

// Watch iterates over the changes after the event of id after; 0 for those
// from now on. A lost connection is made again and goes on where it was (O05);
// it ends when ctx does, or with an error that another try would not mend. The
// first event of each connection has an id and nothing else, or Reset too: what
// is read of the fleet on seeing it, and the events that follow, leave no gap.
func (c *Client) Watch(ctx context.Context, after int64, f fleet.EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		between := newPauses()
		for ctx.Err() == nil {
			last := after
			more, err := c.stream(ctx, &after, f, yield)
			switch {
			case !more || ctx.Err() != nil:
				return
			case fleet.ErrorCode(err) == fleet.NotFound && after > 0:
				// So says a control plane of before Event.Reset. The next
				// connection begins with an event that says to read the
				// state anew.
				after = 0
				continue
			case err != nil && !fleet.ErrorCode(err).Temporary():
				yield(Event{}, err)
				return
			}
			if after != last {
				between.reset()
			}
			if !between.wait(ctx, err) {
				return
			}
		}
	}
}

// stream reads one connection until it breaks. More is false when the reader
// has had enough.
func (c *Client) stream(ctx context.Context, after *int64, f fleet.EventFilter, yield func(Event, error) bool) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A stream that says nothing for three heartbeats is dead, also when TCP
	// does not know it yet.
	quiet := time.AfterFunc(quietLimit, cancel)
	defer quiet.Stop()

	from := struct {
		After int64 `query:"after"`
	}{*after}
	res, err := c.c.send(ctx, call{method: http.MethodGet, path: "/api/v1/events", query: query(f, from)}, nil)
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 16<<10), maxEvent)
	var data []byte
	for lines.Scan() {
		quiet.Reset(quietLimit)
		line := lines.Bytes()
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "data":
				data = append(append(data, value...), '\n')
			case "id": // also without data: what was left out for the filter
				if n, err := strconv.ParseInt(string(value), 10, 64); err == nil && n > *after {
					*after = n
				}
			}
			continue
		}
		if len(data) == 0 {
			continue
		}
		var e Event
		// A field of the wrong type is left out: a newer control plane may have sent it.
		if err := json.Unmarshal(data, &e); !readable(err) {
			return true, fleet.Errorf(fleet.Internal, "event of %s: %w", c.c.base, err)
		}
		data = data[:0]
		if *after = max(*after, e.ID); e.Reset != "" {
			*after = e.ID // which may be lower: the database is an older copy
		}
		if !yield(e, nil) {
			return false, nil
		}
	}
	if err := lines.Err(); err != nil && err != io.EOF {
		return true, c.c.unreachable(err)
	}
	return true, nil
}
