// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/wire"
)

// newRelease is the body of createRelease. It is read value by value: as a whole it
// would be in memory as text and as what it says.
type newRelease struct {
	w  http.ResponseWriter
	r  *http.Request
	in api.ReleaseRequest
}

// Resolve keeps the request for Validate.
func (n *newRelease) Resolve(ctx huma.Context) []error {
	n.r, n.w = humago.Unwrap(ctx)
	return nil
}

// Validate reads the body.
func (n *newRelease) Validate() (err error) {
	control := http.NewResponseController(n.w) // every connection of this server can
	_ = control.SetReadDeadline(time.Now().Add(releaseTimeout))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	n.in, err = wire.Release(n.w, n.r)
	return err
}

// describeBody gives an operation that was registered the schema of a body that
// huma is not to read.
func describeBody[T any](o *operators, op *huma.Operation) {
	schema := o.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, op.OperationID)
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
}
