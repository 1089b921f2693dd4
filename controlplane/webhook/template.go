// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// maxMessage bounds a message, in bytes.
const maxMessage = 64 << 10

// functions are what a template may call. What they give is bounded.
var functions = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return bounded(string(b), err)
	},
	"time":  func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) },
	"upper": func(s string) (string, error) { return bounded(strings.ToUpper(s), nil) },
	"lower": func(s string) (string, error) { return bounded(strings.ToLower(s), nil) },
	"default": func(other string, s string) string {
		if s == "" {
			return other
		}
		return s
	},
}

// builtIn are functions of the language that a template may call: none of them
// makes a value larger than its arguments.
var builtIn = map[string]bool{"and": true, "or": true, "not": true, "eq": true, "ne": true}

var errTooLong = fmt.Errorf("more than %d bytes", maxMessage)

func bounded(s string, err error) (string, error) {
	if err == nil && len(s) > maxMessage {
		err = errTooLong
	}
	return s, err
}

// parseTemplate reads a webhook's template. It can show fields, call functions and
// choose by if; it has no loops, variables or templates of its own, so that its time
// and its output are bounded by its length. The error's code is Invalid.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("message").Funcs(functions).Option("missingkey=zero").Parse(text)
	if err == nil && len(t.Templates()) > 1 {
		err = errors.New("it defines other templates")
	}
	if err == nil && t.Tree != nil {
		err = allowed(t.Root)
	}
	if err == nil {
		_, err = execute(t, sample)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "template: %s", strings.TrimPrefix(err.Error(), "template: ")).
			WithHint("it may have fields such as {{.Event.Action}}, if, and the functions json, time, upper, lower, default, and, or, not, eq, ne")
	}
	return t, nil
}

// sample is a message that a template is tried with.
var sample = api.WebhookMessage{
	ID: "whk-1", FleetID: "acme", Audit: fleet.AuditHead{Size: 1, Head: fleet.SHA256(nil)},
	Event: fleet.AuditEvent{At: 1, Actor: "key:alice", Action: actionTest, Subject: "webhook:whk", Detail: map[string]string{"reason": `"quoted"`}},
}

// allowed walks a template and refuses all but what is listed here.
func allowed(n parse.Node) error {
	var parts []parse.Node
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			parts = n.Nodes
		}
	case *parse.ActionNode:
		parts = []parse.Node{n.Pipe}
	case *parse.IfNode:
		parts = []parse.Node{n.Pipe, n.List}
		if n.ElseList != nil {
			parts = append(parts, n.ElseList)
		}
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			return errors.New("it sets a variable")
		}
		for _, c := range n.Cmds {
			parts = append(parts, c)
		}
	case *parse.CommandNode:
		parts = n.Args
	case *parse.IdentifierNode:
		if _, ours := functions[n.Ident]; !ours && !builtIn[n.Ident] {
			return fmt.Errorf("it calls %s", n.Ident)
		}
	case *parse.TextNode, *parse.CommentNode, *parse.FieldNode, *parse.DotNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
	default:
		return fmt.Errorf("%.40q is not allowed", n.String())
	}
	for _, p := range parts {
		if err := allowed(p); err != nil {
			return err
		}
	}
	return nil
}

// limited ends a template whose output is too long.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxMessage {
		return 0, errTooLong
	}
	return l.Buffer.Write(p)
}

func execute(t *template.Template, m api.WebhookMessage) ([]byte, error) {
	var out limited
	if err := t.Execute(&out, m); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// render makes the body of a message, its content type, and a title for receivers
// that want one in a header.
func render(h hook, m api.WebhookMessage) (body []byte, contentType, title string, err error) {
	switch h.Format {
	case fleet.WebhookSlack:
		body, err = json.Marshal(map[string]string{"text": slackText.Replace(line(m))})
		return body, "application/json", "", err
	case fleet.WebhookNtfy:
		return []byte(line(m)), "text/plain; charset=utf-8", "NixFleet " + m.Event.Action, nil
	case fleet.WebhookTemplate:
		if h.template == nil {
			return nil, "", "", errors.New("this version of the control plane cannot use it")
		}
		if body, err = execute(h.template, m); err == nil && json.Valid(body) {
			return body, "application/json", "", nil
		}
		return body, "text/plain; charset=utf-8", "", err
	case fleet.WebhookJSON:
	}
	body, err = json.Marshal(m)
	return body, "application/json", "", err
}

// slackText writes what Slack would take for a link or for a call of everybody: a
// machine's own words are in a message.
var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// line tells of a message in a line.
func line(m api.WebhookMessage) string {
	e := m.Event
	text := e.Action + " of " + e.Subject + " by " + e.Actor
	for _, k := range []string{"why", "reason", "outcome", "message", "to"} {
		if v := e.Detail[k]; v != "" {
			text += ", " + k + ": " + v
		}
	}
	if m.FleetID != "" {
		text = "[" + m.FleetID + "] " + text
	}
	return fleet.CleanLine(text, 2000)
}
