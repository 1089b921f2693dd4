// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// client makes the requests. It follows no redirects, uses no proxy, and goes to no
// address that is only of a link or where a cloud serves its machines' credentials.
type client struct {
	transport *http.Transport
	timeout   time.Duration
}

func newClient(timeout time.Duration) *client {
	dial := net.Dialer{Timeout: timeout, Control: mayDial}
	return &client{timeout: timeout, transport: &http.Transport{
		DialContext: dial.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: maxAnswer,
	}}
}

// closed are networks that hold no receiver: those of a link, whose most known
// address is a cloud's 169.254.169.254, addresses under which other clouds serve the
// same, and those that stand for an IPv4 address, which may be one of these.
var closed = []netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.192/32"),
	netip.MustParsePrefix("fd00:ec2::254/128"), netip.MustParsePrefix("fd20:ce::254/128"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("::/96"),
}

var errClosed = errors.New("the receiver's address is one that webhooks do not go to")

// mayDial is asked with the address that a name has just been resolved to.
func mayDial(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	ip := a.Addr().Unmap().WithZone("")
	if err != nil || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() ||
		!ip.IsLoopback() && slices.ContainsFunc(closed, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return errClosed
	}
	return nil
}

// refusal is an answer, or that there was none.
type refusal struct {
	status int           // of HTTP; 0: no answer
	after  time.Duration // that the receiver asks to wait for
	why    string
}

func (r *refusal) Error() string { return r.why }

// maxAnswer is how much of an answer's headers, and of its body, is read, so that its
// connection can be used again. Nobody is told what it says.
const maxAnswer = 64 << 10

// send makes one attempt. It returns the status, and a *refusal unless the receiver
// took the message.
func (c *client) send(ctx context.Context, h hook, secret []byte, m api.WebhookMessage, now time.Time) (status int, err error) {
	body, contentType, title, err := render(h, m)
	if err != nil {
		return 0, &refusal{why: fleet.CleanLine("template: "+err.Error(), 300)}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return 0, &refusal{why: "the URL is not valid"}
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "nixfleet-webhook")
	req.Header.Set(api.WebhookIDHeader, m.ID)
	req.Header.Set(api.WebhookTimestampHeader, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(api.WebhookSignatureHeader, api.SignWebhook(secret, m.ID, now, body))
	if title != "" {
		req.Header.Set("Title", title)
	}
	res, err := c.transport.RoundTrip(req) // a Client would follow redirects
	if err != nil {
		return 0, &refusal{why: c.unanswered(ctx, err)}
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // what it says counts for nothing
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return res.StatusCode, nil
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return res.StatusCode, &refusal{status: res.StatusCode, why: fmt.Sprintf("the receiver answered %d; redirects are not followed", res.StatusCode)}
	}
	return res.StatusCode, &refusal{status: res.StatusCode, after: retryAfter(res.Header.Get("Retry-After"), now), why: fmt.Sprintf("the receiver answered %d", res.StatusCode)}
}

// unanswered says why there was no answer. It says nothing of what came instead of
// one: the address may be that of another service.
func (c *client) unanswered(ctx context.Context, err error) string {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("no answer in %s", c.timeout)
	case errors.As(err, &network), errors.As(err, &certificate):
		return fleet.CleanLine(err.Error(), 300)
	}
	return "there was no valid HTTP answer"
}

// retryAfter reads seconds or a date, as RFC 9110 has them; 0 for anything else.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
