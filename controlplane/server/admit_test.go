// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/arcanesys/nixfleet/api"
)

// An operation without a row in api.Operations is open to nobody, also when it
// borrows the name of one that needs no key; the server does not start with it.
func TestAdmit_RefusesWhatHasNoRow(t *testing.T) {
	for name, op := range map[string]huma.Operation{
		"another name": {OperationID: "secrets", Method: http.MethodGet, Path: "/api/v1/secrets"},
		"hidden":       {OperationID: "secrets", Method: http.MethodGet, Path: "/api/v1/secrets", Hidden: true},
		"same name":    {OperationID: "info", Method: http.MethodGet, Path: "/api/v1/secrets"},
		"same path":    {OperationID: "info", Method: http.MethodPut, Path: "/api/v1/info"},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			o := &operators{Server: &Server{}, done: map[string]bool{}}
			for _, op := range api.Operations {
				o.done[op.ID] = true
			}
			o.huma = humago.New(mux, humaConfig())
			o.huma.UseMiddleware(o.admit)
			huma.Register(o.huma, op, func(context.Context, *none) (*reply[string], error) {
				t.Error("it was carried out")
				return &reply[string]{}, nil
			})
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), recordKey{}, &record{}), op.Method, op.Path, nil)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden {
				t.Errorf("status %d, want 403", w.Code)
			}
			if err := o.complete(); !op.Hidden && (err == nil || !strings.Contains(err.Error(), "no row")) {
				t.Errorf("the server starts: %v", err)
			}
		})
	}
}

// Nor does it start with a row that nothing serves.
func TestComplete_NamesTheRowWithoutAHandler(t *testing.T) {
	o := &operators{Server: &Server{}, done: map[string]bool{}}
	for _, op := range api.Operations {
		o.done[op.ID] = op.ID != "revokeKey"
	}
	o.huma = humago.New(http.NewServeMux(), humaConfig())
	if err := o.complete(); err == nil || !strings.Contains(err.Error(), "revokeKey has no handler") {
		t.Errorf("got %v", err)
	}
}
