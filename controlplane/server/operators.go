// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// Limits of an operator's request, in bytes and time.
const (
	maxBody        = 1 << 20
	bodyTimeout    = 20 * time.Second
	releaseTimeout = 5 * time.Minute
	replyTimeout   = time.Minute // after the body
)

// operators is the operators' API while it is put together.
type operators struct {
	*Server
	huma huma.API
	done map[string]bool // operations that have a handler
}

// operatorHandler serves every operation of api.Operations, and the OpenAPI
// document.
func (s *Server) operatorHandler() (http.Handler, error) {
	mux := http.NewServeMux()
	o := &operators{Server: s, done: map[string]bool{}}
	o.huma = humago.New(mux, humaConfig())
	o.huma.UseMiddleware(o.admit)
	o.keyOperations()
	o.trustOperations()
	o.releaseOperations()
	o.machineOperations()
	o.rolloutOperations()
	o.policyOperations()
	o.budgetOperations()
	o.scheduleOperations()
	o.freezeOperations()
	o.webhookOperations()
	o.auditOperations()
	o.eventOperations()
	if err := o.complete(); err != nil {
		return nil, err
	}
	document, err := o.document()
	if err != nil {
		return nil, err
	}
	mux.HandleFunc("GET /api/v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problemOf(fleet.Errorf(fleet.NotFound, "there is no operation at %s", r.URL.Path).
			WithHint("/api/v1/openapi.json lists them")).write(w)
	})
	return s.observe("operators", mux), nil
}

// complete checks that what was registered is what api.Operations lists.
func (o *operators) complete() error {
	for _, op := range api.Operations {
		if !o.done[op.ID] {
			return fmt.Errorf("operation %s has no handler", op.ID)
		}
	}
	for _, item := range o.huma.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch, item.Head, item.Options, item.Trace} {
			if op == nil {
				continue
			}
			if _, ok := rowOf(op); !ok {
				return fmt.Errorf("operation %s has no row in api.Operations", op.OperationID)
			}
		}
	}
	return nil
}

func humaConfig() huma.Config {
	c := huma.DefaultConfig("NixFleet control plane", "1")
	c.CreateHooks = nil // they add $schema to every reply
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{mapHumaErrors}
	strict := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshalStrict}
	c.Formats = map[string]huma.Format{"application/json": strict, "json": strict}
	c.Info.Description = "What operators can do with a fleet. Errors are RFC 9457 problems with a stable code and a hint."
	c.Info.License = &huma.License{Name: "AGPL-3.0-only", Identifier: "AGPL-3.0-only"}
	c.Servers = []*huma.Server{{URL: "/", Description: "The operators' listener, by default on port 8443"}}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key": {Type: "http", Scheme: "bearer", Description: "API key, nfk_<id>_<secret>. What binds a key to a host, _<host>_<CA hash>, is for clients and counts for nothing here."},
	}
	return c
}

// unmarshalStrict refuses unknown fields and anything after the value.
func unmarshalStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more text after the JSON value")
	}
	return nil
}

// operation completes an entry of api.Operations for huma.
func (o *operators) operation(id string) huma.Operation {
	for _, op := range api.Operations {
		if op.ID != id {
			continue
		}
		o.done[id] = true
		h := huma.Operation{
			OperationID: op.ID, Method: op.Method, Path: op.Path, Summary: op.Summary, DefaultStatus: op.Status,
			// Bodies are decoded strictly and validated by the nouns themselves,
			// whose errors say more.
			SkipValidateBody: true, MaxBodyBytes: maxBody, BodyReadTimeout: bodyTimeout,
			Description: described(op),
		}
		if op.Method == http.MethodPost {
			h.Parameters = []*huma.Param{&idempotencyKey}
		}
		h.Security = []map[string][]string{} // none
		if op.Scope != api.Public {
			h.Security = append(h.Security, map[string][]string{"key": {}})
		}
		return h
	}
	panic("api.Operations has no operation " + id)
}

// described says who may do an operation.
func described(op api.Operation) string {
	roles := make([]string, len(op.Roles))
	for i, r := range op.Roles {
		roles[i] = string(r)
	}
	switch needs := "Needs a key with role " + strings.Join(roles, ", ") + "."; op.Scope {
	case api.Scoped:
		return needs + " One that is limited to tags does it for machines with one of them."
	case api.FleetWide:
		return needs + " One that is limited to tags may not."
	case api.Public:
	}
	return "Needs no key."
}

// reply is the output of an operation.
type reply[T any] struct {
	Body T
}

// tagged is the output of an operation that reads a single thing.
type tagged[T any] struct {
	ETag string `header:"ETag" doc:"Changes with the body"`
	Body T
}

// handle registers what an operation does. The handler runs only for a caller
// whose key has the operation's role, and with a filter that is valid.
func handle[I, O any](o *operators, id string, fn func(ctx context.Context, c access.Caller, in *I) (O, error), change ...func(*huma.Operation)) {
	op := o.operation(id)
	for _, c := range change {
		c(&op)
	}
	huma.Register(o.huma, op, func(ctx context.Context, in *I) (*reply[O], error) {
		if filter, ok := any(in).(interface{ Validate() error }); ok {
			if err := filter.Validate(); err != nil {
				return nil, o.fail(ctx, err)
			}
		}
		var body O
		done, err := o.plane.Answered(ctx, &body)
		if !done && err == nil {
			body, err = fn(ctx, callerOf(ctx), in)
		}
		if err != nil {
			return nil, o.fail(ctx, err)
		}
		return &reply[O]{Body: body}, nil
	})
}

// one registers an operation that reads a single thing: the reply has an ETag,
// and a caller that has it already gets 304.
func one[I interface{ etag() string }, O any](o *operators, id string, fn func(ctx context.Context, c access.Caller, in I) (O, error)) {
	huma.Register(o.huma, o.operation(id), func(ctx context.Context, in *I) (*tagged[O], error) {
		body, err := fn(ctx, callerOf(ctx), *in)
		if err != nil {
			return nil, o.fail(ctx, err)
		}
		b, err := json.Marshal(body)
		if err != nil {
			return nil, o.fail(ctx, fmt.Errorf("encode reply: %w", err))
		}
		sum := sha256.Sum256(b)
		tag := hex.EncodeToString(sum[:12])
		switch v := any(body).(type) { // for If-Match
		case fleet.Machine:
			tag = strconv.FormatInt(v.Version, 10) + "." + tag
		case api.RolloutDetail:
			tag = strconv.FormatInt(v.Version, 10) + "." + tag
		}
		tag = `"` + tag + `"`
		if (*in).etag() == tag {
			return nil, huma.ErrorWithHeaders(huma.Status304NotModified(), http.Header{"Etag": {tag}})
		}
		return &tagged[O]{ETag: tag, Body: body}, nil
	})
}

// Known is the part of an input that asks for an ETag.
type Known struct {
	IfNoneMatch string `header:"If-None-Match" doc:"ETag of the reply that the caller has"`
}

func (k Known) etag() string { return k.IfNoneMatch }

// Match is the part of an input that a change is bound to. The part of an ETag that
// counts is the version: of a machine, what operators set and not what it reports.
type Match struct {
	IfMatch string `header:"If-Match" doc:"ETag that the caller has seen: refused as changed if the version is another since"`
}

// into sets the version that a change is bound to, if If-Match names one. The
// error's code is Invalid.
func (m Match) into(version *int64) error {
	if m.IfMatch == "" || m.IfMatch == "*" {
		return nil
	}
	text, _, _ := strings.Cut(strings.Trim(m.IfMatch, `"`), ".")
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v <= 0 {
		return fleet.Errorf(fleet.Invalid, "If-Match is not an ETag of what is to be changed").WithHint("read it again: the reply's ETag is it")
	}
	*version = v
	return nil
}

// fail notes err for the log and gives it to huma.
func (o *operators) fail(ctx context.Context, err error) error {
	p := o.refuse(recordOf(ctx), err)
	return huma.ErrorWithHeaders(p, p.headers())
}

// refuse notes err in the record and returns the problem that the caller gets.
func (s *Server) refuse(rec *record, err error) *problem {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = fleet.Errorf(fleet.Unavailable, "no answer in time: %w", err)
	}
	rec.err = err
	if fleet.ErrorCode(err) == fleet.Unauthenticated && s.failures.add(rec.remote, s.clock.Now()) {
		return tooMany()
	}
	return problemOf(err)
}

// admit lets nobody do what api.Operations has no row for, and of the rest what
// the row says, before it looks at anything else of the request (E09).
func (o *operators) admit(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	rec := recordOf(r.Context())
	rec.operation = ctx.Operation().OperationID
	w.Header().Set("Cache-Control", "no-store")
	limit := ctx.Operation().BodyReadTimeout + replyTimeout
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit)) // every connection of this server can
	op, ok := rowOf(ctx.Operation())
	if !ok {
		o.refuse(rec, fleet.Errorf(fleet.Forbidden, "%s %s is open to nobody", ctx.Operation().Method, ctx.Operation().Path)).write(w)
		return
	}
	if op.Scope == api.Public {
		named, err := o.named(r, op, "nobody", "") // its secret is in the body
		if err != nil {
			o.refuse(rec, err).write(w)
			return
		}
		next(huma.WithContext(ctx, named))
		return
	}
	// Before the key: a database that is an old copy may not know it.
	if err := o.plane.Epoch.Check(r.Context(), rec.remote, r.Header.Get(api.EpochHeader)); err != nil {
		o.refuse(rec, err).write(w)
		return
	}
	c, key, err := o.authenticate(r)
	named := r.Context()
	if err == nil {
		rec.epoch = o.plane.Epoch.Token
		if err = c.MayDo(op); err == nil {
			named, err = o.named(r, op, c.KeyID, key)
		}
	} else if o.answered(w, r, op) {
		return
	}
	rec.caller = c.Owner
	if err != nil {
		o.refuse(rec, err).write(w)
		return
	}
	ctx = huma.WithContext(ctx, context.WithValue(named, callerKey{}, c))
	if op.ID != "events" && op.ID != "exportAudit" { // these last as long as their reader stays
		limited, cancel := context.WithTimeout(ctx.Context(), limit)
		defer cancel()
		ctx = huma.WithContext(ctx, limited)
	}
	next(ctx)
}

// rowOf finds an operation as it was registered in api.Operations.
func rowOf(h *huma.Operation) (api.Operation, bool) {
	for _, op := range api.Operations {
		if op.ID == h.OperationID && op.Method == h.Method && op.Path == h.Path {
			return op, true
		}
	}
	return api.Operation{}, false
}

func (s *Server) authenticate(r *http.Request) (c access.Caller, key string, err error) {
	if key, err = bearer(r); err != nil {
		return c, "", err
	}
	c, err = s.plane.Keys.Authenticate(r.Context(), key)
	return c, key, err
}

// bearer is the API key that a request comes with.
func bearer(r *http.Request) (string, error) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || key == "" {
		return "", fleet.Errorf(fleet.Unauthenticated, "no API key").WithHint("send it as: Authorization: Bearer nfk_...")
	}
	return strings.TrimSpace(key), nil
}

// lasting returns a context for a reply that goes on: it ends with the request,
// when the key ends (E09), or when the server stops.
func (s *Server) lasting(r *http.Request) (context.Context, func(), error) {
	key, err := bearer(r)
	if err != nil {
		return nil, nil, err
	}
	ctx, done, err := s.plane.Keys.While(r.Context(), key)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := s.untilDrain(ctx)
	return ctx, func() { cancel(); done() }, nil
}

type callerKey struct{}

// callerOf returns the caller of an operation; zero for a public one.
func callerOf(ctx context.Context) access.Caller {
	c, _ := ctx.Value(callerKey{}).(access.Caller)
	return c
}
