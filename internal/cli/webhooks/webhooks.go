// SPDX-License-Identifier: MIT

// Package webhooks are the commands about receivers of what is audited: nixfleet
// webhook.
//
// It never shows a secret again.
package webhooks

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

// Host is the command line that the commands are part of.
type Host struct {
	*command.Line
	Client func() (*api.Client, error)
	Read   func(file string, limit int64) ([]byte, error)
}

// Command is nixfleet webhook.
func Command(h Host) *cobra.Command {
	c := &cobra.Command{
		Use: "webhook", Short: "Receivers of what is audited: chat, alerts, other programs",
		Example: "  nixfleet webhook add https://ci.example.org/nixfleet --events 'rollout.*'\n  nixfleet webhook test whk3k2j1h0gf",
	}
	c.AddCommand(h.addCmd(), h.listCmd(), h.testCmd(), h.removeCmd(), h.messagesCmd("pending", false), h.messagesCmd("deadletters", true), h.resendCmd())
	return c
}

func (h Host) addCmd() *cobra.Command {
	var spec fleet.WebhookSpec
	var format, file string
	c := &cobra.Command{
		Use: "add URL", Short: "Add a receiver; the secret that its messages are signed with is shown once",
		Long: `Add a receiver; the secret that its messages are signed with is shown once.

The receiver gets a POST for each audited action that --events names, from now on. Messages are
signed as standardwebhooks.com describes. One that is not answered with 2xx is tried again for a day,
then it is a dead letter. The same message may come twice: its Webhook-Id is the same then.

Formats: json (the audit entry and the checkpoint), slack (also Mattermost), ntfy, and template: a
text template, such as '{"content": {{json .Event.Action}}}', in --template-file.`,
		Example: "  nixfleet webhook add https://ci.example.org/nixfleet --events rollout.fail,rollout.complete\n" +
			"  nixfleet webhook add https://ntfy.example.org/fleet --format ntfy --events 'rollout.*,machine.enroll'",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			spec.URL, spec.Format = argv[0], fleet.WebhookFormat(format)
			if file != "" {
				b, err := h.Read(file, fleet.MaxWebhookTemplate)
				if err != nil {
					return err
				}
				spec.Template = string(b)
			}
			if err := spec.Validate(); err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			c, err := h.Client()
			if err != nil {
				return err
			}
			made, err := c.CreateWebhook(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return h.Print(made, func(w io.Writer) {
				fmt.Fprintln(w, made.Secret)
				h.Say("webhook %s is added; the secret is not shown again; try it: nixfleet webhook test %s", made.Webhook.ID, made.Webhook.ID)
			})
		},
	}
	c.Flags().StringSliceVar(&spec.Events, "events", nil, "audited actions to send, such as rollout.fail or rollout.* (default: all)")
	c.Flags().StringVar(&format, "format", string(fleet.WebhookJSON), "json, slack, ntfy or template")
	c.Flags().StringVar(&file, "template-file", "", "`file` with the text template; - is standard input")
	return c
}

func (h Host) listCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List receivers, and how their messages do", Example: "  nixfleet webhook list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			all, err := c.Webhooks(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(all, func(w io.Writer) {
				rows := make([][]string, len(all))
				for i, v := range all {
					events := strings.Join(v.Events, ",")
					if events == "" {
						events = "*"
					}
					rows[i] = []string{
						v.ID, v.URL, string(v.Format), events, strconv.Itoa(v.Waiting), strconv.Itoa(v.Dead), view.Date(v.Delivered), view.Dash(v.LastError),
					}
				}
				view.Table(w, "ID URL FORMAT EVENTS PENDING DEAD DELIVERED ERROR", rows)
			})
		},
	}
}

func (h Host) testCmd() *cobra.Command {
	return &cobra.Command{
		Use: "test ID", Short: "Send a test message now; exit code 1 unless the receiver takes it", Example: "  nixfleet webhook test whk3k2j1h0gf", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			got, err := c.TestWebhook(cmd.Context(), argv[0])
			if err != nil {
				return err
			}
			err = h.Print(got, func(w io.Writer) {
				if got.Delivered {
					fmt.Fprintf(w, "the receiver answered %d in %d ms\n", got.Status, got.TookMs)
				}
			})
			if err == nil && !got.Delivered {
				err = fleet.Errorf(fleet.Unavailable, "the receiver did not take the message: %s", got.Error)
			}
			return err
		},
	}
}

func (h Host) removeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Remove a receiver and its messages", Example: "  nixfleet webhook remove whk3k2j1h0gf", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			if err = c.DeleteWebhook(cmd.Context(), argv[0]); err != nil {
				return err
			}
			return h.Print(map[string]string{"deleted": argv[0]}, func(w io.Writer) { fmt.Fprintf(w, "webhook %s is removed\n", argv[0]) })
		},
	}
}

func (h Host) messagesCmd(name string, dead bool) *cobra.Command {
	short := "List messages that a receiver has not taken yet, and when they are tried again"
	if dead {
		short = "List messages that are not tried any more"
	}
	return &cobra.Command{
		Use: name + " ID", Short: short, Example: "  nixfleet webhook " + name + " whk3k2j1h0gf", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			all := []fleet.WebhookDelivery{}
			for d, err := range api.All(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.WebhookDelivery], error) {
				return c.WebhookMessages(ctx, argv[0], dead, p)
			}) {
				if err != nil {
					return err
				}
				all = append(all, d)
			}
			return h.Print(all, func(w io.Writer) {
				rows := make([][]string, len(all))
				for i, d := range all {
					rows[i] = []string{d.ID, d.Action, view.Date(d.At), strconv.Itoa(d.Attempts), view.Date(d.Next), view.Dash(d.Error)}
				}
				header := "MESSAGE ACTION AT ATTEMPTS NEXT ERROR"
				if dead {
					header = "MESSAGE ACTION AT ATTEMPTS DIED ERROR"
				}
				view.Table(w, header, rows)
			})
		},
	}
}

func (h Host) resendCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "resend ID [LETTER...]", Short: "Try dead letters again", Example: "  nixfleet webhook resend whk3k2j1h0gf --all", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if all == (len(argv) > 1) {
				return command.Usagef("name dead letters, or give --all")
			}
			c, err := h.Client()
			if err != nil {
				return err
			}
			got, err := c.ResendMessages(cmd.Context(), argv[0], api.ResendRequest{Messages: argv[1:]})
			if err != nil {
				return err
			}
			return h.Print(got, func(w io.Writer) { fmt.Fprintf(w, "%d are tried again\n", got.Count) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all dead letters of the receiver")
	return c
}
