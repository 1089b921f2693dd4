// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/fleet"
)

// idempotencyKey describes the header to OpenAPI.
var idempotencyKey = huma.Param{
	Name: api.IdempotencyKey, In: "header", Schema: &huma.Schema{Type: huma.TypeString},
	Description: "A random name for this call. The same call under the same name is carried out once, and answered the same for 24 hours.",
}

// hashedBody hashes what is read of a body.
type hashedBody struct {
	io.ReadCloser
	hash hash.Hash
}

func (b *hashedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	return n, err
}

// named returns a context for the call that a request is, if its caller gave it
// a name. What is read of the body from now on is part of the call.
func (s *Server) named(r *http.Request, op api.Operation, caller, bearer string) (context.Context, error) {
	name := r.Header.Get(api.IdempotencyKey)
	if op.Method != http.MethodPost || name == "" {
		return r.Context(), nil
	}
	key, err := api.ParseKey(bearer) // without what binds it: that is not part of the secret
	if err != nil {
		return nil, err
	}
	body := &hashedBody{r.Body, sha256.New()}
	_, _ = io.WriteString(body.hash, r.Method+" "+r.URL.RequestURI()+"\n") // a hash takes all
	r.Body = body
	c := once.Call{Caller: caller, Secret: key.Secret, Name: name, Now: s.clock.UnixMilli(), Asked: func() fleet.Digest {
		return fleet.Digest("sha256:" + hex.EncodeToString(body.hash.Sum(nil)))
	}}
	return once.With(r.Context(), c), c.Validate()
}

// answered answers a call that gave a key a new secret, when it comes again with
// the old one, which has ended: only who sent the old one can open the answer.
func (o *operators) answered(w http.ResponseWriter, r *http.Request, op api.Operation) bool {
	text, err := bearer(r)
	if err != nil || op.ID != "rotateKey" {
		return false
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(text, fleet.KeyPrefix), "_")
	ctx, err := o.named(r, op, id, text)
	if err != nil {
		return false
	}
	var out api.NewKey
	if done, err := o.plane.Answered(ctx, &out); err != nil || !done {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(op.Status)
	_ = huma.DefaultJSONFormat.Marshal(w, out) // the caller may be gone
	return true
}
