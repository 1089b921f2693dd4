// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// document is the OpenAPI document of what was registered. Errors are described
// as problems; huma describes its own error type.
func (o *operators) document() ([]byte, error) {
	doc := o.huma.OpenAPI()
	schemas := doc.Components.Schemas
	problem := &huma.Response{
		Description: "Error",
		Content:     map[string]*huma.MediaType{api.ProblemType: {Schema: schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")}},
	}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete} {
			if op == nil {
				continue
			}
			op.Responses["4XX"], op.Responses["default"] = problem, problem
			for _, param := range op.Parameters {
				if param.Name == "If-None-Match" {
					op.Responses["304"] = &huma.Response{Description: "The caller has the present one"}
				}
			}
		}
	}
	all := schemas.Map()
	for name, s := range all { // lists that are never null
		if name == "Tags" || strings.HasPrefix(name, "Page") {
			for _, p := range s.Properties {
				p.Nullable = false
			}
		}
	}
	code := all["Problem"].Properties["code"]
	for _, c := range fleet.Codes {
		code.Enum = append(code.Enum, string(c))
	}
	delete(all, "ErrorModel")
	delete(all, "ErrorDetail")
	// Of a rollout's spec only the release is required; the rest has defaults.
	if spec, ok := all["RolloutSpec"]; ok {
		spec.Required = []string{"release"}
	}
	compact, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI document: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "  "); err != nil {
		return nil, fmt.Errorf("indent OpenAPI document: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
