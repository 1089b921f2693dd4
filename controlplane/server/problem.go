// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// problem is an api.Problem in the shape of huma's errors.
type problem struct {
	api.Problem
	retry int // seconds of Retry-After where there is one; retrySeconds if 0
}

func (p *problem) Error() string             { return p.Detail }
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return api.ProblemType }

// problemOf is the problem that a caller gets for err.
func problemOf(err error) *problem {
	p := &problem{Problem: api.NewProblem(err)}
	var over *overBudget
	if errors.As(err, &over) {
		p.retry = int(over.after/time.Second) + 1
	}
	var stop *stopped
	if errors.As(err, &stop) {
		p.retry = stop.retry
	}
	if p.Code == fleet.StorageFull || p.Code == fleet.StorageFailed {
		p.retry = storageRetrySeconds
	}
	return p
}

// stopped is the cause of a held check-in's end when the control plane stops.
type stopped struct{ retry int } // seconds

func (*stopped) Error() string { return "the control plane is stopping" }

// stopRetry is within how many seconds agents ask again whose check-ins a stop has
// ended. They are spread, so that they do not connect all at once.
const stopRetry = 3

func stopping() error {
	return fleet.Errorf(fleet.Unavailable, "%w", &stopped{1 + rand.IntN(stopRetry)})
}

// storageRetrySeconds is the Retry-After while the disk takes no writes.
const storageRetrySeconds = 10

// retrySeconds is the Retry-After of a part that is down or busy.
const retrySeconds = 2

// tooMany answers an address with too many failed authentications.
func tooMany() *problem {
	return problemOf(fleet.Errorf(fleet.RateLimited, "too many failed attempts from this address").WithHint("wait a minute; a valid key works meanwhile"))
}

// headers are those that go with a problem.
func (p *problem) headers() http.Header {
	h := http.Header{}
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="nixfleet"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", strconv.Itoa(cmp.Or(p.retry, retrySeconds)))
	}
	return h
}

// write sends p from a plain handler.
func (p *problem) write(w http.ResponseWriter) {
	for k, v := range p.headers() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p.Problem) // the caller may be gone
}

// mapHumaErrors is a huma.Transformer. It makes problems of huma's own errors: a
// bad parameter, bad JSON, an unknown field. They do not quote the request,
// which may hold secrets.
func mapHumaErrors(_ huma.Context, _ string, v any) (any, error) {
	switch e := v.(type) {
	case *problem:
		return e.Problem, nil
	case *huma.ErrorModel:
		var found []string
		for _, d := range e.Errors {
			text := strings.TrimPrefix(d.Message, "json: ")
			if d.Location != "" {
				text = d.Location + ": " + text
			}
			found = append(found, text)
		}
		p := api.Problem{Title: http.StatusText(e.Status), Status: e.Status, Detail: e.Detail}
		if len(found) > 0 {
			p.Detail = "request: " + strings.Join(found, "; ")
			p.Hint = "docs/reference/openapi.json describes every request"
		}
		p.Code = fleet.ErrorCode(p.Err())
		return p, nil
	}
	return v, nil
}
