// SPDX-License-Identifier: AGPL-3.0-only

package gates

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// reply is what Prometheus answers to an instant query.
type reply struct {
	Status   string   `json:"status"`
	Warnings []string `json:"warnings"`
	Data     struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	} `json:"data"`
}

// sample is a value with the labels of its series.
type sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"` // time, value as text
}

func askPrometheus(ctx context.Context, g config.Gate, p rollout.Probe) (fleet.GateAnswer, string, error) {
	query := strings.ReplaceAll(g.Query, "$machines", pattern(p.Machines))
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	b, err := post(ctx, g, strings.TrimSuffix(g.URL, "/")+"/api/v1/query", header, []byte(url.Values{"query": {query}}.Encode()))
	if err != nil {
		return "", "", err
	}
	samples, why, err := decodeSamples(b)
	if err != nil || why != "" {
		return fleet.GateInconclusive, why, err
	}
	answer, why := judge(g, p.Machines, samples)
	return answer, why, nil
}

// decodeSamples reads the values of an answer; why says that it has none that
// count.
func decodeSamples(b []byte) (samples []sample, why string, err error) {
	var r reply
	if err = json.Unmarshal(b, &r); err != nil {
		return nil, "", err
	}
	switch {
	case r.Status != "success":
		return nil, "Prometheus did not run the query", nil
	case len(r.Warnings) > 0: // a part of the data is missing, most often
		return nil, "Prometheus warns: " + fleet.CleanLine(r.Warnings[0], 200), nil
	case r.Data.ResultType == "vector":
		err = json.Unmarshal(r.Data.Result, &samples)
	case r.Data.ResultType == "scalar":
		samples = make([]sample, 1)
		err = json.Unmarshal(r.Data.Result, &samples[0].Value)
	default:
		return nil, "the query has neither a vector nor a scalar as its result", nil
	}
	return samples, "", err
}

// judge compares values with the limits. A value that is missing, or no number,
// never passes.
func judge(g config.Gate, machines []fleet.MachineID, samples []sample) (fleet.GateAnswer, string) {
	if len(samples) == 0 {
		return fleet.GateInconclusive, "no data"
	}
	missing := map[fleet.MachineID]bool{}
	if g.MachineLabel != "" {
		for _, m := range machines {
			missing[m] = true
		}
	}
	unknown := ""
	for _, s := range samples {
		text, _ := s.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		of := s.Metric[g.MachineLabel]
		if of != "" {
			of = " of " + of
		}
		switch {
		case err != nil || math.IsNaN(v):
			unknown = fmt.Sprintf("the value%s is no number", of)
		case g.Min != nil && v < *g.Min:
			return fleet.GateFail, fmt.Sprintf("%s%s is below %v", text, of, *g.Min)
		case g.Max != nil && v > *g.Max:
			return fleet.GateFail, fmt.Sprintf("%s%s is above %v", text, of, *g.Max)
		}
		delete(missing, fleet.MachineID(s.Metric[g.MachineLabel]))
	}
	for _, m := range machines {
		if missing[m] {
			return fleet.GateInconclusive, fmt.Sprintf("no data of %s", m)
		}
	}
	if unknown != "" {
		return fleet.GateInconclusive, unknown
	}
	return fleet.GatePass, fmt.Sprintf("%d values within the limits", len(samples))
}
