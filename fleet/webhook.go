// SPDX-License-Identifier: MIT

package fleet

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// WebhookFormat is what a webhook's receiver understands.
type WebhookFormat string

// The formats.
const (
	WebhookJSON     WebhookFormat = "json"     // api.WebhookMessage
	WebhookSlack    WebhookFormat = "slack"    // {"text": ...}, as Slack and Mattermost take it
	WebhookNtfy     WebhookFormat = "ntfy"     // a line of text with a title
	WebhookTemplate WebhookFormat = "template" // what the webhook's template makes of the message
)

// Valid reports whether f is one of the formats.
func (f WebhookFormat) Valid() bool {
	switch f {
	case WebhookJSON, WebhookSlack, WebhookNtfy, WebhookTemplate:
		return true
	}
	return false
}

// Limits of webhooks.
const (
	MaxWebhooks        = 50
	MaxWebhookURL      = 2048 // bytes
	MaxWebhookTemplate = 8192 // bytes
	MaxWebhookEvents   = 50   // patterns
)

// WebhookSpec is what an admin says of a webhook.
type WebhookSpec struct {
	URL string `json:"url"` // https; http to this host only
	// Events are the audited actions that are sent: whole ones, such as rollout.fail,
	// or all that begin alike, such as rollout.*. None: all.
	Events   []string      `json:"events,omitempty"`
	Format   WebhookFormat `json:"format,omitempty"` // json if empty
	Template string        `json:"template,omitempty"`
}

// Validate reports what is wrong with a webhook; the code is Invalid. Whether the
// template can be carried out, the control plane says.
func (s WebhookSpec) Validate() error {
	if err := validWebhookURL(s.URL); err != nil {
		return err
	}
	if len(s.Events) > MaxWebhookEvents {
		return Errorf(Invalid, "%d patterns of events, at most %d", len(s.Events), MaxWebhookEvents)
	}
	for _, p := range s.Events {
		if !validPattern(p) {
			return Errorf(Invalid, "%q is not a pattern of events", clip(p, 60)).WithHint("an audited action, such as rollout.fail, or all that begin alike, such as rollout.*")
		}
	}
	switch {
	case s.Format != "" && !s.Format.Valid():
		return Errorf(Invalid, "%q is not a format of webhooks", clip(string(s.Format), 40)).WithHint("one of json, slack, ntfy, template")
	case (s.Format == WebhookTemplate) != (s.Template != ""):
		return Errorf(Invalid, "a webhook has a template if its format is template, and only then")
	case len(s.Template) > MaxWebhookTemplate:
		return Errorf(Invalid, "the template has %d bytes, at most %d", len(s.Template), MaxWebhookTemplate)
	}
	return nil
}

// validWebhookURL does not quote the URL: it may hold a secret.
func validWebhookURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > MaxWebhookURL || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return Errorf(Invalid, "the URL is not valid").WithHint("https://host/path, without a user and a fragment, at most %d bytes", MaxWebhookURL)
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return Errorf(Invalid, "the URL has the scheme %q", clip(u.Scheme, 20)).WithHint("https; http is for receivers on the control plane's own host")
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func validPattern(p string) bool {
	if p == "*" {
		return true
	}
	p = strings.TrimSuffix(p, ".*")
	return p != "" && len(p) <= 60 && p[0] != '.' && p[len(p)-1] != '.' && strings.Trim(p, "abcdefghijklmnopqrstuvwxyz-.") == ""
}

// Wants reports whether a webhook sends an action.
func (s WebhookSpec) Wants(action string) bool {
	return len(s.Events) == 0 || slices.ContainsFunc(s.Events, func(p string) bool {
		begin, all := strings.CutSuffix(p, "*")
		return p == action || all && strings.HasPrefix(action, begin)
	})
}

// Webhook is a receiver of what is audited. Times are Unix milliseconds, 0 for
// never.
type Webhook struct {
	ID string `json:"id"`
	WebhookSpec
	CreatedAt int64  `json:"createdAt"`
	CreatedBy string `json:"createdBy"`
	// Cursor is the audit entry up to which it was decided what is sent.
	Cursor    int64  `json:"cursor"`
	Delivered int64  `json:"delivered"` // last time that the receiver took something
	Failed    int64  `json:"failed"`    // last time that it did not
	LastError string `json:"lastError,omitempty"`
	Waiting   int    `json:"waiting"` // messages that are still tried
	Dead      int    `json:"dead"`    // messages that are not tried any more
}

// WebhookDelivery is a message on its way, or one that is not tried any more: a
// dead letter. What was delivered is not kept.
type WebhookDelivery struct {
	ID       string `json:"id"` // the header webhook-id: the same with each try
	Webhook  string `json:"webhook"`
	Seq      int64  `json:"seq"`  // audit entry
	Mark     string `json:"mark"` // of its hash: in a restored database another entry may have the number
	Action   string `json:"action"`
	At       int64  `json:"at"` // of the entry, Unix milliseconds
	Attempts int    `json:"attempts"`
	Queued   int64  `json:"queued"` // when it was first to be sent, or again as a dead letter
	Next     int64  `json:"next"`   // of the next attempt; of a dead letter, when it died
	Dead     bool   `json:"dead"`
	Error    string `json:"error,omitempty"` // of the last attempt
}
