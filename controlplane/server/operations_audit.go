// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

type auditIn struct {
	fleet.PageRequest
	fleet.AuditFilter
}

func (o *operators) auditOperations() {
	handle(o, "listAudit", func(ctx context.Context, _ access.Caller, in *auditIn) (api.Page[fleet.AuditEntry], error) {
		return o.plane.History.Audit(ctx, in.AuditFilter, in.PageRequest)
	})
	handle(o, "auditHead", func(ctx context.Context, _ access.Caller, _ *none) (fleet.AuditHead, error) {
		return o.plane.History.AuditHead(ctx)
	})
	op := o.operation("exportAudit")
	op.Responses = streamOf("text/csv", "One line an entry, after a line of names", &huma.Schema{Type: huma.TypeString})
	huma.Register(o.huma, op, func(ctx context.Context, in *fleet.AuditFilter) (*huma.StreamResponse, error) {
		// The first page is read before anything is sent, so that an error can
		// still become a problem.
		first, err := o.plane.History.Audit(ctx, *in, fleet.PageRequest{Limit: fleet.MaxLimit})
		if err != nil {
			return nil, o.fail(ctx, err)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) { o.exportAudit(hctx, *in, first) }}, nil
	})
}

func (o *operators) exportAudit(hctx huma.Context, f fleet.AuditFilter, p api.Page[fleet.AuditEntry]) {
	r, w := humago.Unwrap(hctx)
	rec := recordOf(r.Context())
	rec.held = true
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="audit.csv"`)
	rc := http.NewResponseController(w)
	out := csv.NewWriter(w)
	ctx, done, err := o.lasting(r)
	if err != nil {
		rec.err = err
		panic(http.ErrAbortHandler)
	}
	defer done()
	err = writeCSV(out, []string{"seq", "at", "actor", "action", "subject", "detail", "hash"})
	for err == nil {
		_ = rc.SetWriteDeadline(time.Now().Add(streamWrite)) // every connection of this server can
		if err = writeAudit(out, p.Items); err != nil || p.Next == "" {
			break
		}
		p, err = o.plane.History.Audit(ctx, f, fleet.PageRequest{Cursor: p.Next, Limit: fleet.MaxLimit})
	}
	if err != nil {
		rec.err = err
		// The status is sent already: a cut connection tells the reader that the
		// list is not whole.
		panic(http.ErrAbortHandler)
	}
}

func writeAudit(out *csv.Writer, entries []fleet.AuditEntry) error {
	for _, e := range entries {
		v, err := e.Event()
		if err != nil {
			return err
		}
		detail, err := json.Marshal(v.Detail)
		if err != nil {
			return fmt.Errorf("encode detail: %w", err)
		}
		at := time.UnixMilli(v.At).UTC().Format("2006-01-02T15:04:05.000Z")
		if err := writeCSV(out, []string{strconv.FormatInt(e.Seq, 10), at, v.Actor, v.Action, v.Subject, string(detail), string(e.Hash)}); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// writeCSV writes a line in which no spreadsheet finds a formula: a cell that
// begins as one gets an apostrophe before it.
func writeCSV(out *csv.Writer, cells []string) error {
	for i, c := range cells {
		if c != "" && strings.ContainsRune("=+-@\t\r\n|", rune(c[0])) {
			cells[i] = "'" + c
		}
	}
	return out.Write(cells)
}

// streamOf describes a reply that is not JSON.
func streamOf(mediaType, description string, schema *huma.Schema) map[string]*huma.Response {
	return map[string]*huma.Response{"200": {Description: description, Content: map[string]*huma.MediaType{mediaType: {Schema: schema}}}}
}
