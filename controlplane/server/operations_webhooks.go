// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// WebhookRef is the part of an input that names a webhook.
type WebhookRef struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the webhook"`
}

type (
	messagesIn struct {
		fleet.PageRequest
		WebhookRef
		Dead bool `query:"dead" doc:"Those that are not tried any more, not those that wait"`
	}
	resendIn struct {
		WebhookRef
		Body *api.ResendRequest
	}
)

func (o *operators) webhookOperations() {
	handle(o, "listWebhooks", func(ctx context.Context, _ access.Caller, _ *struct{}) ([]fleet.Webhook, error) {
		return o.plane.Webhooks.List(ctx)
	})
	handle(o, "createWebhook", func(ctx context.Context, c access.Caller, in *body[fleet.WebhookSpec]) (api.NewWebhook, error) {
		return o.plane.Webhooks.Create(ctx, c, in.Body)
	})
	handle(o, "deleteWebhook", func(ctx context.Context, c access.Caller, in *WebhookRef) (fleet.Webhook, error) {
		return o.plane.Webhooks.Delete(ctx, c, in.ID)
	})
	handle(o, "testWebhook", func(ctx context.Context, c access.Caller, in *WebhookRef) (api.WebhookTest, error) {
		return o.plane.Webhooks.Test(ctx, in.ID, c.Actor())
	})
	handle(o, "webhookMessages", func(ctx context.Context, _ access.Caller, in *messagesIn) (api.Page[fleet.WebhookDelivery], error) {
		return o.plane.Webhooks.Messages(ctx, in.ID, in.Dead, in.PageRequest)
	})
	handle(o, "resendMessages", func(ctx context.Context, c access.Caller, in *resendIn) (api.Resent, error) {
		var req api.ResendRequest
		if in.Body != nil {
			req = *in.Body
		}
		return o.plane.Webhooks.Resend(ctx, c, in.ID, req)
	})
}
