// SPDX-License-Identifier: AGPL-3.0-only

// Package gates asks what must hold before a batch passes: Prometheus, a webhook,
// compliance. No data, an error, and an answer that is not known are
// inconclusive.
//
// It asks only where the control plane's configuration says, and never decides
// what follows from an answer.
package gates

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/clock"
	"github.com/arcanesys/nixfleet/internal/config"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 8 << 20

// Compliance judges machines by their evidence.
type Compliance func(ctx context.Context, machines []fleet.MachineID) (fleet.GateAnswer, string)

// Options are what a Set is made of.
type Options struct {
	Gates map[string]config.Gate
	Clock clock.Clock
	// Compliance answers gates of kind compliance; nil: they are inconclusive.
	Compliance Compliance
}

// Set is the gates of a configuration. A nil Set has none.
type Set struct{ o Options }

// New prepares gates; it opens nothing.
func New(o Options) *Set { return &Set{o} }

// List returns names and kinds by name, without addresses.
func (s *Set) List() []api.Gate {
	list := []api.Gate{}
	if s == nil {
		return list
	}
	for _, name := range slices.Sorted(maps.Keys(s.o.Gates)) {
		list = append(list, api.Gate{Name: fleet.GateName(name), Kind: string(s.o.Gates[name].Kind)})
	}
	return list
}

// Check reports the first gate that the configuration does not have; the code is
// Invalid.
func (s *Set) Check(names []fleet.GateName) error {
	for _, n := range names {
		if s == nil || s.o.Gates[string(n)].Kind == "" {
			return fleet.Errorf(fleet.Invalid, "rollout: the control plane has no gate %s", n).
				WithHint("nixfleet gate list shows those that its configuration has")
		}
	}
	return nil
}

// Ask asks a gate. It never fails: what goes wrong is inconclusive.
func (s *Set) Ask(ctx context.Context, p rollout.Probe) rollout.GateResult {
	r := rollout.GateResult{Batch: p.Batch, Gate: p.Gate, Asked: p.Asked, Answer: fleet.GateInconclusive}
	if s == nil || s.o.Gates[string(p.Gate)].Kind == "" {
		r.Message = "the control plane's configuration no longer has this gate"
		return r
	}
	g := s.o.Gates[string(p.Gate)]
	ctx, cancel := context.WithTimeout(ctx, g.Timeout())
	defer cancel()
	var err error
	switch g.Kind {
	case config.GatePrometheus:
		r.Answer, r.Message, err = askPrometheus(ctx, g, p)
	case config.GateWebhook:
		r.Answer, r.Message, err = askWebhook(ctx, g, p, s.o.Clock.Now())
	case config.GateCompliance:
		if s.o.Compliance == nil {
			r.Message = "this control plane keeps no evidence"
			return r
		}
		r.Answer, r.Message = s.o.Compliance(ctx, p.Machines)
	}
	if err != nil {
		r.Answer, r.Message = fleet.GateInconclusive, plainly(err)
	}
	r.Message = fleet.CleanLine(r.Message, 300)
	return r
}

// plainly says what went wrong without the address: readers of a rollout need not
// know it.
func plainly(err error) string {
	var n net.Error
	switch {
	case errors.As(err, &n) && n.Timeout() || errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case fleet.ErrorCode(err) != fleet.Internal:
		return err.Error()
	case errors.As(err, &n):
		return "it cannot be reached"
	}
	return "its answer cannot be read"
}

// post sends a question and reads the answer. Redirects are not followed: the
// configuration alone says where to ask.
func post(ctx context.Context, g config.Gate, url string, header http.Header, body []byte) ([]byte, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if g.CAFile != "" {
		pem, err := os.ReadFile(g.CAFile)
		if err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "caFile of the gate cannot be read")
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fleet.Errorf(fleet.Invalid, "caFile of the gate is not a PEM certificate")
		}
	}
	c := http.Client{
		Transport:     &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, ResponseHeaderTimeout: g.Timeout()},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxAnswer:
		return nil, fleet.Errorf(fleet.TooLarge, "its answer has more than %d bytes", maxAnswer)
	case res.StatusCode != http.StatusOK:
		return nil, fleet.Errorf(fleet.Unavailable, "it answered with status %d", res.StatusCode)
	}
	return b, nil
}

// pattern matches the machines of a batch, as PromQL's =~ wants it.
func pattern(machines []fleet.MachineID) string {
	words := make([]string, len(machines))
	for i, m := range machines {
		words[i] = string(m) // of letters, digits and '-': nothing to escape
	}
	return strings.Join(words, "|")
}

// id names a question; an answer repeats it.
func id(p rollout.Probe) string {
	return fmt.Sprintf("%s/%d/%s/%d", p.Rollout, p.Batch+1, p.Gate, p.Asked)
}

func unix(t time.Time) string { return fmt.Sprint(t.Unix()) }
