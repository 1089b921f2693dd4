// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// Webhooks lists webhooks, by id.
func (c *Client) Webhooks(ctx context.Context) ([]fleet.Webhook, error) {
	return list[fleet.Webhook](ctx, c, "/api/v1/webhooks")
}

// CreateWebhook makes a webhook, to which goes what is audited from now on.
func (c *Client) CreateWebhook(ctx context.Context, spec fleet.WebhookSpec) (NewWebhook, error) {
	return post[NewWebhook](ctx, c, "/api/v1/webhooks", spec)
}

// DeleteWebhook forgets a webhook and its messages.
func (c *Client) DeleteWebhook(ctx context.Context, webhook string) error {
	return c.c.do(ctx, call{method: http.MethodDelete, path: "/api/v1/webhooks/" + id(webhook), timeout: c.timeout}, nil)
}

// TestWebhook sends a test message and says how the receiver answered.
func (c *Client) TestWebhook(ctx context.Context, webhook string) (WebhookTest, error) {
	return post[WebhookTest](ctx, c, "/api/v1/webhooks/"+id(webhook)+"/test", nil)
}

// deadOnly selects dead letters.
type deadOnly struct {
	Dead bool `query:"dead"`
}

// WebhookMessages lists a webhook's messages by audit entry: those that wait, or the
// dead letters.
func (c *Client) WebhookMessages(ctx context.Context, webhook string, dead bool, p fleet.PageRequest) (Page[fleet.WebhookDelivery], error) {
	return get[Page[fleet.WebhookDelivery]](ctx, c, "/api/v1/webhooks/"+id(webhook)+"/messages", pageQuery(p, deadOnly{dead}))
}

// ResendMessages has dead letters of a webhook tried again.
func (c *Client) ResendMessages(ctx context.Context, webhook string, req ResendRequest) (Resent, error) {
	return post[Resent](ctx, c, "/api/v1/webhooks/"+id(webhook)+"/resend", req)
}
