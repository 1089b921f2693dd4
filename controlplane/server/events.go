// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// streamWrite is how long one write to a stream may take. Then the stream is
// cut: its reader does not read.
const streamWrite = 10 * time.Second

type eventsIn struct {
	After       int64  `query:"after" minimum:"0" doc:"Id of the last event that the caller has; 0 for those from now on"`
	LastEventID string `header:"Last-Event-ID" doc:"As after, by which browsers resume"`
	fleet.EventFilter
}

// start is the event after which the stream begins; -1 for those from now on.
func (in *eventsIn) start() (int64, error) {
	after := in.After
	if in.LastEventID != "" {
		n, err := strconv.ParseInt(in.LastEventID, 10, 64)
		if err != nil || n < 0 {
			return 0, fleet.Errorf(fleet.Invalid, "Last-Event-ID is not the id of an event")
		}
		after = n
	}
	if after == 0 {
		return -1, nil
	}
	return after, nil
}

func (o *operators) eventOperations() {
	op := o.operation("events")
	schema := o.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Event](), true, "Event")
	op.Responses = streamOf("text/event-stream", "Server-sent events; the data of each is an Event, as JSON. The first has an id and nothing else; it is called reset, and says why, where the stream cannot go on after the event that was named.", schema)
	huma.Register(o.huma, op, func(ctx context.Context, in *eventsIn) (*huma.StreamResponse, error) {
		start, err := in.start()
		if err != nil {
			return nil, o.fail(ctx, err)
		}
		first := api.Event{At: o.clock.UnixMilli()}
		first.ID, err = o.plane.History.EventStart(ctx, start)
		if fleet.ErrorCode(err) == fleet.NotFound {
			first.Reset = err.Error()
			first.ID, err = o.plane.History.EventStart(ctx, -1)
		}
		if err != nil {
			return nil, o.fail(ctx, err)
		}
		c := callerOf(ctx)
		return &huma.StreamResponse{Body: func(hctx huma.Context) { o.stream(hctx, c, first, in.EventFilter) }}, nil
	})
}

// stream writes the first event and those after it that the caller may see, until
// the reader is gone, its key has ended, or the server stops.
func (o *operators) stream(hctx huma.Context, c access.Caller, first api.Event, f fleet.EventFilter) {
	r, w := humago.Unwrap(hctx)
	rec := recordOf(r.Context())
	rec.held = true
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy must not hold events back
	ctx, done, err := o.lasting(r)
	if err != nil {
		rec.err = err
		panic(http.ErrAbortHandler) // the key ended just now; the reader's next try says so
	}
	defer done()
	err = writeEvents(w, first, o.plane.Events(ctx, c, first.ID, f, api.HeartbeatEvery))
	switch cause := context.Cause(ctx); {
	case fleet.ErrorCode(cause) == fleet.Unauthenticated:
		rec.err = cause
	case cause == nil:
		rec.err = err
	}
}

// writeEvents writes the event that says that the stream has begun, then events
// as they come. A zero event becomes a heartbeat.
func writeEvents(w http.ResponseWriter, first api.Event, events iter.Seq2[api.Event, error]) error {
	rc := http.NewResponseController(w)
	send := func(format string, args ...any) error {
		if err := rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return rc.Flush()
	}
	tell := func(e api.Event, kind string) error {
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		return send("%sid: %d\ndata: %s\n\n", kind, e.ID, b)
	}
	kind := ""
	if first.Reset != "" {
		kind = "event: reset\n"
	}
	if err := tell(first, kind); err != nil {
		return err
	}
	for e, err := range events {
		switch {
		case err != nil:
			return err
		case e.ID == 0:
			err = send(": heartbeat\n\n")
		default:
			err = tell(e, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
