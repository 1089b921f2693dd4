// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// ClientConfig says which control plane an operator talks to, and as whom.
type ClientConfig struct {
	BaseURL   string      // https://host:8443
	Key       string      // API key; empty for Info and BootstrapKey. A bound one goes to its own control plane only
	CAPem     []byte      // the control plane's CA; empty: the system's
	TLS       *tls.Config // instead of CAPem
	UserAgent string
	Timeout   time.Duration // of one try of a call, but Watch; 60 s if 0
	// Epoch is the latest that was seen of this control plane, which the calls
	// echo; "" if there is none. SawEpoch is called with each later one, by one
	// goroutine at a time; nil to keep none.
	Epoch    string
	SawEpoch func(epoch string)
	// LeftOut is called with the name of a field of a reply that has another type than
	// this version knows, and is left out, or with "an item" of a list; nil to hear of
	// none. It may be called by many goroutines at once.
	LeftOut func(field string)
	// Proxy is as in http.Transport. Nil for none: the environment is not read.
	Proxy func(*http.Request) (*url.URL, error)
}

// Client makes the operators' calls, one method for each operation. Its errors
// are fleet.Errors, with the code and the hint of the control plane's. Calls
// that may be repeated are, when the control plane is not there or busy.
type Client struct {
	c       *caller
	timeout time.Duration
	ownCA   bool                   // not the system's CAs
	root    atomic.Pointer[string] // hash of the root that verified the last connection
}

// NewClient checks cfg; it sends nothing. The error's code is Invalid, or Refused
// for a key of another control plane.
func NewClient(cfg ClientConfig) (*Client, error) {
	key, err := ParseKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	if err = key.Fits(cfg.BaseURL, cfg.CAPem); err != nil {
		return nil, err
	}
	conf := cfg.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
		if len(cfg.CAPem) > 0 {
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(cfg.CAPem) {
				return nil, fleet.Errorf(fleet.Invalid, "the control plane's CA is not a PEM certificate")
			}
		}
	}
	client := &Client{timeout: cfg.Timeout, ownCA: conf.RootCAs != nil}
	if key.Host != "" && key.CAHash == "" && client.ownCA {
		return nil, key.otherCA("the CAs of the system verify the key's control plane, and another CA is given")
	}
	client.watchRoot(conf, key)
	client.c, err = newCaller(cfg.BaseURL, key.Secret, cfg.UserAgent, &http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: true, Proxy: cfg.Proxy,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
	})
	if err != nil {
		return nil, err
	}
	client.c.echo, client.c.leftOut = &echo{last: cfg.Epoch, saw: cfg.SawEpoch}, cfg.LeftOut
	if client.timeout == 0 {
		client.timeout = time.Minute
	}
	return client, nil
}

// watchRoot makes a handshake fail that is not with the key's control plane, so
// that the key is not sent, and remembers who verified the others.
func (c *Client) watchRoot(conf *tls.Config, key KeyParts) {
	also := conf.VerifyConnection
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := key.verified(cs); err != nil {
			return err
		}
		root := rootOf(cs)
		c.root.Store(&root)
		if also != nil {
			return also(cs)
		}
		return nil
	}
}

// BindKey returns the text of an API key of this control plane, bound to it: with
// its host and, unless the system's CAs verify it, the root that verified the last
// call. Before the first call, it returns the key as it is.
func (c *Client) BindKey(key string) string {
	k, err := ParseKey(key)
	root := c.root.Load()
	if err != nil || root == nil || *root == "" {
		return key
	}
	k.Host, k.CAHash = keyHost(c.c.base), ""
	if c.ownCA {
		k.CAHash = *root
	}
	return k.String()
}

// Close ends the connections that are idle.
func (c *Client) Close() { c.c.http.CloseIdleConnections() }

// get, put, post and send are the four ways to call: reading, and writing what may
// be written twice, are repeated, and so is a POST, which is carried out once by
// its name; all else is sent once.
func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var v T
	err := c.c.do(ctx, call{method: http.MethodGet, path: path, query: q, timeout: c.timeout, again: true, inPart: true}, &v)
	return v, err
}

// list is get for a list that comes as a whole.
func list[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	v, err := get[items[T]](ctx, c, path, nil)
	return v.list, err
}

func put[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var v T
	err := c.c.do(ctx, call{method: http.MethodPut, path: path, body: body, timeout: c.timeout, again: true}, &v)
	return v, err
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var v T
	err := c.c.do(ctx, call{method: http.MethodPost, path: path, body: body, timeout: c.timeout, name: rand.Text()}, &v)
	return v, err
}

func send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	err := c.c.do(ctx, call{method: method, path: path, body: body, timeout: c.timeout}, &v)
	return v, err
}

// id escapes a path parameter.
func id[T ~string](s T) string { return url.PathEscape(string(s)) }

// Info says what is at the other end. It needs no key.
func (c *Client) Info(ctx context.Context) (Info, error) {
	return get[Info](ctx, c, "/api/v1/info", nil)
}

// BootstrapKey exchanges the one-time secret for the first admin key. It needs no
// key.
func (c *Client) BootstrapKey(ctx context.Context, req BootstrapRequest) (NewKey, error) {
	return post[NewKey](ctx, c, "/api/v1/keys/bootstrap", req)
}

// Whoami returns the key that makes the calls.
func (c *Client) Whoami(ctx context.Context) (fleet.Key, error) {
	return get[fleet.Key](ctx, c, "/api/v1/keys/self", nil)
}

// Keys lists API keys, without their secrets.
func (c *Client) Keys(ctx context.Context, p fleet.PageRequest) (Page[fleet.Key], error) {
	return get[Page[fleet.Key]](ctx, c, "/api/v1/keys", pageQuery(p))
}

// CreateKey makes an API key.
func (c *Client) CreateKey(ctx context.Context, req KeyRequest) (NewKey, error) {
	return post[NewKey](ctx, c, "/api/v1/keys", req)
}

// RotateKey gives a key a new secret; the old one ends.
func (c *Client) RotateKey(ctx context.Context, key string) (NewKey, error) {
	return post[NewKey](ctx, c, "/api/v1/keys/"+id(key)+"/rotate", nil)
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, key string) (fleet.Key, error) {
	return send[fleet.Key](ctx, c, http.MethodDelete, "/api/v1/keys/"+id(key), nil)
}

// Root returns the pinned root document; NotFound before there is one.
func (c *Client) Root(ctx context.Context) (Document, error) {
	return get[Document](ctx, c, "/api/v1/trust/root", nil)
}

// PutRoot pins the first root document, or its successor.
func (c *Client) PutRoot(ctx context.Context, envelope []byte) (Document, error) {
	return put[Document](ctx, c, "/api/v1/trust/root", Document{Envelope: envelope})
}

// Revocations returns the newest revocation list, also one by keys that have lost
// the role since; NotFound if there is none.
func (c *Client) Revocations(ctx context.Context) (Document, error) {
	return get[Document](ctx, c, "/api/v1/trust/revocations", nil)
}

// PutRevocations hands in a newer revocation list.
func (c *Client) PutRevocations(ctx context.Context, envelope []byte) (Document, error) {
	return put[Document](ctx, c, "/api/v1/trust/revocations", Document{Envelope: envelope})
}

// Timestamp returns the current timestamp; NotFound if there is none.
func (c *Client) Timestamp(ctx context.Context) (Document, error) {
	return get[Document](ctx, c, "/api/v1/trust/timestamp", nil)
}

// PutTimestamp hands in a newer timestamp.
func (c *Client) PutTimestamp(ctx context.Context, envelope []byte) (Document, error) {
	return put[Document](ctx, c, "/api/v1/trust/timestamp", Document{Envelope: envelope})
}

// PutGrant hands in a grant.
func (c *Client) PutGrant(ctx context.Context, envelope []byte) (Document, error) {
	return put[Document](ctx, c, "/api/v1/trust/grants", Document{Envelope: envelope})
}

// Releases lists releases, newest first.
func (c *Client) Releases(ctx context.Context, f fleet.ReleaseFilter, p fleet.PageRequest) (Page[fleet.Release], error) {
	return get[Page[fleet.Release]](ctx, c, "/api/v1/releases", pageQuery(p, f))
}

// CreateRelease registers a signed release.
func (c *Client) CreateRelease(ctx context.Context, req ReleaseRequest) (fleet.Release, error) {
	return post[fleet.Release](ctx, c, "/api/v1/releases", req)
}

// Release returns a release as it was registered.
func (c *Client) Release(ctx context.Context, d fleet.Digest) (ReleaseDetail, error) {
	return get[ReleaseDetail](ctx, c, "/api/v1/releases/"+id(d), nil)
}

// DiffReleases says what changes from one release to another.
func (c *Client) DiffReleases(ctx context.Context, from, to fleet.Digest) (fleet.ReleaseDiff, error) {
	return get[fleet.ReleaseDiff](ctx, c, "/api/v1/releases/"+id(from)+"/diff/"+id(to), nil)
}

// DeleteRelease forgets a release that nothing uses; Conflict says what does
// (O12).
func (c *Client) DeleteRelease(ctx context.Context, d fleet.Digest) error {
	return c.c.do(ctx, call{method: http.MethodDelete, path: "/api/v1/releases/" + id(d), timeout: c.timeout}, nil)
}

// Lines lists lines by name.
func (c *Client) Lines(ctx context.Context, p fleet.PageRequest) (Page[LineHead], error) {
	return get[Page[LineHead]](ctx, c, "/api/v1/lines", pageQuery(p))
}

// Line returns the newest release that a line has had; NotFound if it had none.
// It is the control plane's word, but for the envelope's signatures.
func (c *Client) Line(ctx context.Context, line fleet.Line) (LineHead, error) {
	return get[LineHead](ctx, c, "/api/v1/lines/"+id(line), nil)
}

// Machines lists machines by id.
func (c *Client) Machines(ctx context.Context, f fleet.MachineFilter, p fleet.PageRequest) (Page[fleet.Machine], error) {
	return get[Page[fleet.Machine]](ctx, c, "/api/v1/machines", pageQuery(p, f))
}

// RegisterMachine makes a machine known before it enrols.
func (c *Client) RegisterMachine(ctx context.Context, req MachineRequest) (fleet.Machine, error) {
	return post[fleet.Machine](ctx, c, "/api/v1/machines", req)
}

// Machine returns a machine.
func (c *Client) Machine(ctx context.Context, m fleet.MachineID) (fleet.Machine, error) {
	return get[fleet.Machine](ctx, c, "/api/v1/machines/"+id(m), nil)
}

// MachineReports lists what a machine reported, newest first.
func (c *Client) MachineReports(ctx context.Context, m fleet.MachineID, p fleet.PageRequest) (Page[fleet.Report], error) {
	return get[Page[fleet.Report]](ctx, c, "/api/v1/machines/"+id(m)+"/reports", pageQuery(p))
}

// SetLifecycle sets a machine's lifecycle.
func (c *Client) SetLifecycle(ctx context.Context, m fleet.MachineID, l fleet.Lifecycle) (fleet.Machine, error) {
	return put[fleet.Machine](ctx, c, "/api/v1/machines/"+id(m)+"/lifecycle", LifecycleRequest{Lifecycle: l})
}

// SetTags sets the operators' tags of a machine. It is not repeated, since a
// second try would find the version that the first one left.
func (c *Client) SetTags(ctx context.Context, m fleet.MachineID, req TagsRequest) (fleet.Machine, error) {
	return send[fleet.Machine](ctx, c, http.MethodPut, "/api/v1/machines/"+id(m)+"/tags", req)
}

// RenameMachine gives a machine another name, under which it has to enrol anew.
func (c *Client) RenameMachine(ctx context.Context, m fleet.MachineID, req RenameRequest) (fleet.Machine, error) {
	return post[fleet.Machine](ctx, c, "/api/v1/machines/"+id(m)+"/rename", req)
}

// DeleteMachine forgets a machine that has never enrolled.
func (c *Client) DeleteMachine(ctx context.Context, m fleet.MachineID) error {
	return c.c.do(ctx, call{method: http.MethodDelete, path: "/api/v1/machines/" + id(m), timeout: c.timeout}, nil)
}

// CreateToken makes a one-time enrolment token.
func (c *Client) CreateToken(ctx context.Context, m fleet.MachineID, req TokenRequest) (Token, error) {
	return post[Token](ctx, c, "/api/v1/machines/"+id(m)+"/token", req)
}

// AdoptMachine accepts a machine that came with a good certificate.
func (c *Client) AdoptMachine(ctx context.Context, m fleet.MachineID) (fleet.Machine, error) {
	return post[fleet.Machine](ctx, c, "/api/v1/machines/"+id(m)+"/adopt", nil)
}

// Rollouts lists rollouts, newest first.
func (c *Client) Rollouts(ctx context.Context, f fleet.RolloutFilter, p fleet.PageRequest) (Page[fleet.Rollout], error) {
	return get[Page[fleet.Rollout]](ctx, c, "/api/v1/rollouts", pageQuery(p, f))
}

// CreateRollout starts a rollout, or only plans it.
func (c *Client) CreateRollout(ctx context.Context, req RolloutRequest) (RolloutDetail, error) {
	return post[RolloutDetail](ctx, c, "/api/v1/rollouts", req)
}

// Rollout returns a rollout with its batches.
func (c *Client) Rollout(ctx context.Context, r fleet.RolloutID) (RolloutDetail, error) {
	return get[RolloutDetail](ctx, c, "/api/v1/rollouts/"+id(r), nil)
}

// Assignments lists a rollout's machines, by batch and id.
func (c *Client) Assignments(ctx context.Context, r fleet.RolloutID, f fleet.AssignmentFilter, p fleet.PageRequest) (Page[fleet.Assignment], error) {
	return get[Page[fleet.Assignment]](ctx, c, "/api/v1/rollouts/"+id(r)+"/assignments", pageQuery(p, f))
}

// RolloutEvents lists what happened in a rollout, oldest first, as far as the event log
// goes.
func (c *Client) RolloutEvents(ctx context.Context, r fleet.RolloutID, p fleet.PageRequest) (Page[Event], error) {
	return get[Page[Event]](ctx, c, "/api/v1/rollouts/"+id(r)+"/events", pageQuery(p))
}

// RolloutVerb does something to a rollout.
func (c *Client) RolloutVerb(ctx context.Context, r fleet.RolloutID, v Verb, req VerbRequest) (RolloutDetail, error) {
	return post[RolloutDetail](ctx, c, "/api/v1/rollouts/"+id(r)+"/"+id(v), req)
}

// ExplainRollout says why a rollout, its batches and its machines have not
// ended, and by when they must.
func (c *Client) ExplainRollout(ctx context.Context, r fleet.RolloutID) ([]Waiting, error) {
	return list[Waiting](ctx, c, "/api/v1/rollouts/"+id(r)+"/waiting")
}

// DeleteRollout forgets a rollout that has ended.
func (c *Client) DeleteRollout(ctx context.Context, r fleet.RolloutID) error {
	return c.c.do(ctx, call{method: http.MethodDelete, path: "/api/v1/rollouts/" + id(r), timeout: c.timeout}, nil)
}

// Audit lists the audit trail, oldest first.
func (c *Client) Audit(ctx context.Context, f fleet.AuditFilter, p fleet.PageRequest) (Page[fleet.AuditEntry], error) {
	return get[Page[fleet.AuditEntry]](ctx, c, "/api/v1/audit", pageQuery(p, f))
}

// AuditHead returns the size and head of the audit chain.
func (c *Client) AuditHead(ctx context.Context) (fleet.AuditHead, error) {
	return get[fleet.AuditHead](ctx, c, "/api/v1/audit/head", nil)
}

// ExportAudit writes the selected audit trail to w as CSV.
func (c *Client) ExportAudit(ctx context.Context, f fleet.AuditFilter, w io.Writer) error {
	res, err := c.c.send(ctx, call{method: http.MethodGet, path: "/api/v1/audit.csv", query: query(f)}, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return c.c.unreachable(err)
	}
	return nil
}

// All iterates over the items of every page that list returns, from the first
// on. An error ends it.
func All[T any](ctx context.Context, list func(context.Context, fleet.PageRequest) (Page[T], error)) func(yield func(T, error) bool) {
	return func(yield func(T, error) bool) {
		p := fleet.PageRequest{Limit: fleet.MaxLimit}
		for {
			page, err := list(ctx, p)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range page.Items {
				if !yield(v, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			p.Cursor = page.Next
		}
	}
}
