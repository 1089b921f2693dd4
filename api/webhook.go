// SPDX-License-Identifier: MIT

package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Headers of a webhook's request, as https://www.standardwebhooks.com has them.
const (
	WebhookIDHeader        = "Webhook-Id"        // of the message; the same with each try
	WebhookTimestampHeader = "Webhook-Timestamp" // of this try, Unix seconds
	WebhookSignatureHeader = "Webhook-Signature" // v1,<base64 of HMAC-SHA256(secret, id.timestamp.body)>
	webhookSecretPrefix    = "whsec_"            // of the secret's text, base64 follows
)

// WebhookMessage is what a webhook of the format json sends: something that was
// audited. Audit is the chain up to it: a checkpoint that a receiver can keep.
type WebhookMessage struct {
	ID      string           `json:"id"`
	FleetID string           `json:"fleetId,omitempty"`
	Event   fleet.AuditEvent `json:"event"`
	Audit   fleet.AuditHead  `json:"audit"`
}

// NewWebhook is a webhook with the secret that its messages are signed with. It is
// shown this once.
type NewWebhook struct {
	Webhook fleet.Webhook `json:"webhook"`
	Secret  string        `json:"secret"`
}

// WebhookTest is how a receiver answered a test message.
type WebhookTest struct {
	Delivered bool   `json:"delivered"`
	Status    int    `json:"status,omitempty"` // of HTTP; 0: no answer
	Error     string `json:"error,omitempty"`
	TookMs    int64  `json:"tookMs"`
}

// ResendRequest names dead letters by id; none: all of the webhook.
type ResendRequest struct {
	Messages []string `json:"messages,omitempty"`
}

// Resent says how many dead letters are tried again.
type Resent struct {
	Count int64 `json:"count"`
}

// WebhookSecret is the text of a webhook's secret.
func WebhookSecret(key []byte) string {
	return webhookSecretPrefix + base64.StdEncoding.EncodeToString(key)
}

// SignWebhook is the signature of a message, for WebhookSignatureHeader.
func SignWebhook(key []byte, id string, at time.Time, body []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	m.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

const (
	// webhookTolerance is by how much a message's time may differ from the receiver's.
	webhookTolerance = 5 * time.Minute
	// minWebhookKey is how many bytes a secret has at least: one that was never set is
	// refused, since anyone can sign with it.
	minWebhookKey = 16
)

// VerifyWebhook is for receivers: nil if a request's body was signed with a secret,
// at most five minutes from now. The error's code is Unauthenticated, or Invalid for a
// secret that is none. Whoever has seen the message's id before has the same message
// again.
func VerifyWebhook(secret string, h http.Header, body []byte, now time.Time) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, webhookSecretPrefix))
	if err != nil || len(key) < minWebhookKey {
		return fleet.Errorf(fleet.Invalid, "the secret is not one of a webhook").WithHint("nixfleet webhook add shows it once: whsec_ and base64")
	}
	id, stamp := h.Get(WebhookIDHeader), h.Get(WebhookTimestampHeader)
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	at := time.Unix(seconds, 0)
	if err != nil || strconv.FormatInt(seconds, 10) != stamp || now.Sub(at).Abs() > webhookTolerance {
		return fleet.Errorf(fleet.Unauthenticated, "the message is not of the last five minutes")
	}
	if id == "" || strings.Contains(id, ".") { // a dot would move the bounds of what is signed
		return fleet.Errorf(fleet.Unauthenticated, "the message has no valid %s", WebhookIDHeader)
	}
	want := SignWebhook(key, id, at, body)
	for _, got := range strings.Fields(h.Get(WebhookSignatureHeader)) {
		if subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1 {
			return nil
		}
	}
	return fleet.Errorf(fleet.Unauthenticated, "the message is not signed with this secret")
}
