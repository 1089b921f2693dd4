// SPDX-License-Identifier: MIT

package api

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of what a client reads and of how long it tries.
const (
	maxReply   = 256 << 20 // a release with its entries, in base64
	maxProblem = 64 << 10
	maxTries   = 4
	// A named call whose answer was lost is tried for longer, about 20 s: its
	// caller cannot know whether it was carried out.
	maxTriesNamed = 8
)

// caller sends calls to one control plane and to no other host: it follows no
// redirect, so that a key or a report never travels on (E09).
type caller struct {
	base      string // without the last slash
	key       string // API key, or "" when a client certificate is the credential
	userAgent string
	http      *http.Client
	echo      *echo // nil for agents, who have it in their bodies
	// leftOut is called with the name of each field of a reply that could not be read
	// and is left out; nil to tell nobody.
	leftOut func(field string)
}

// call is one request. Its path is already escaped.
type call struct {
	method  string
	path    string
	query   url.Values
	body    any
	limit   int64         // of the reply, in bytes; maxReply if 0
	timeout time.Duration // of each try
	again   bool          // is safe to repeat: doing it twice is as doing it once
	name    string        // its Idempotency-Key, by which it is repeated too; "" for none
	inPart  bool          // fields of the reply that have the wrong type are left out
}

// IdempotencyKey is the header by which a caller names a POST: the same call
// under the same name is carried out once and answered the same for 24 hours.
const IdempotencyKey = "Idempotency-Key"

func newCaller(base, key, userAgent string, t *http.Transport) (*caller, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fleet.Errorf(fleet.Invalid, "%q is not the address of a control plane", base).
			WithHint("such as https://fleet.example.org:8443")
	}
	if userAgent == "" {
		userAgent = "nixfleet"
	}
	return &caller{
		base: strings.TrimSuffix(u.String(), "/"), key: key, userAgent: userAgent,
		http: &http.Client{
			Transport: t,
			CheckRedirect: func(req *http.Request, _ []*http.Request) error {
				return fleet.Errorf(fleet.Refused, "control plane %s redirects to %s", u.Host, req.URL.Host).
					WithHint("nothing was sent there; give the control plane's own address")
			},
		},
	}, nil
}

// do sends k, repeats it where that is safe, and decodes the reply into out: a
// pointer, a *[]byte for the bytes as they come, or nil.
func (c *caller) do(ctx context.Context, k call, out any) error {
	var body []byte
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = b
	}
	between, tries := newPauses(), maxTries
	for try := 1; ; try++ {
		err := c.try(ctx, k, body, out)
		if err == nil || !k.again && k.name == "" || !fleet.ErrorCode(err).Temporary() {
			return err
		}
		if k.name != "" && arrived(err) {
			tries = maxTriesNamed
		}
		if try >= tries || ctx.Err() != nil || !between.wait(ctx, err) {
			return unanswered(err, tries == maxTriesNamed)
		}
	}
}

// arrived reports whether a call that ended with err may have reached the control
// plane.
func arrived(err error) bool {
	var op *net.OpError
	return !errors.As(err, &op) || op.Op != "dial"
}

// unanswered is the error of a call that was given up. If one of its tries may have
// been carried out, it says so.
func unanswered(err error, mayBeDone bool) error {
	var fe *fleet.Error
	if !mayBeDone || !errors.As(err, &fe) {
		return err
	}
	return fe.WithHint("it may have been carried out all the same: look before you repeat it")
}

func (c *caller) try(ctx context.Context, k call, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	res, err := c.send(ctx, k, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	limit := k.limit
	if limit == 0 {
		limit = maxReply
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return c.unreachable(err)
	case int64(len(b)) > limit:
		return fleet.Errorf(fleet.TooLarge, "reply of %s to %s has more than %d bytes", c.base, k.path, limit)
	}
	switch o := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*o = b
		return nil
	}
	if err = json.Unmarshal(b, out); err != nil && !(k.inPart && readable(err)) {
		return fleet.Errorf(fleet.Internal, "reply of %s to %s: %w", c.base, k.path, err).
			WithHint("is this the control plane's address, and is its version that of this program?")
	}
	c.tellLeftOut(out, err)
	return nil
}

// tellLeftOut says what of a reply could not be read.
func (c *caller) tellLeftOut(out any, err error) {
	if c.leftOut == nil {
		return
	}
	if list, ok := out.(interface{ missed() []string }); ok {
		for _, name := range list.missed() {
			c.leftOut(name)
		}
	}
	if name := fieldOf(err); name != "" {
		c.leftOut(name)
	}
}

// send returns a reply of status 2xx, whose body the caller closes; any other
// becomes an error.
func (c *caller) send(ctx context.Context, k call, body []byte) (*http.Response, error) {
	target := c.base + k.path
	if q := k.query.Encode(); q != "" {
		target += "?" + q
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Accept", "application/json, "+ProblemType)
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if k.name != "" {
		req.Header.Set(IdempotencyKey, k.name)
	}
	if c.echo != nil && c.echo.epoch() != "" {
		req.Header.Set(EpochHeader, c.echo.epoch())
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if c.echo != nil {
		c.echo.take(res.Header.Get(EpochHeader))
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.problem(res)
}

// problem is the error that a reply tells of. One that is not the control
// plane's, a proxy's page for example, gives a code by its status.
func (c *caller) problem(res *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(res.Body, maxProblem)) // a cut problem is told by its status
	var p Problem
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		p = Problem{Detail: fmt.Sprintf("%s answered %s", c.base, res.Status)}
	}
	p.Status = res.StatusCode
	err := p.Err()
	var fe *fleet.Error
	if errors.As(err, &fe) {
		if after, ok := retryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
			fe.Err = &retryLater{after}
		}
	}
	return err
}

// unreachable says why there was no reply, and what to do about it.
func (c *caller) unreachable(err error) error {
	var fe *fleet.Error
	if errors.As(err, &fe) { // our own refusal of a redirect
		return fe
	}
	var ue *url.Error
	if errors.As(err, &ue) { // its text has the whole URL, and ours has it already
		err = ue.Err
	}
	var unknownCA x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var expired x509.CertificateInvalidError
	var op *net.OpError
	e := fleet.Errorf(fleet.Unavailable, "reach control plane %s: %w", c.base, err)
	switch {
	case errors.As(err, &unknownCA):
		e.Code = fleet.Refused
		return e.WithHint("its certificate is of another CA than the one given; is this the right control plane?")
	case errors.As(err, &wrongName), errors.As(err, &expired):
		e.Code = fleet.Refused
		return e.WithHint("its certificate does not fit this address or time; tls.names in the control plane's configuration lists its names")
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert: crypto/tls keeps its type to itself
		e.Code = fleet.Unauthenticated
		return e.WithHint("the control plane refuses this machine's certificate: it is expired, revoked or of another CA")
	case errors.As(err, &op) && op.Op == "dial":
		return e.WithHint("is the control plane running, and is its address right?")
	}
	return e
}
