// SPDX-License-Identifier: MIT

package hostile

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E09: each role's key, and what is above it; a limited key, and what is not its
// own; a key that has ended.
func TestAttacks_WithAnAPIKey(t *testing.T) {
	c := newTarget(t)
	ctx := context.Background()
	c.enrolled("web-01", "web")
	c.enrolled("db-01", "db")
	both := c.register(c.signed("acme-release", 1, "", "db-01", "web-01"))
	dbOnly := c.register(c.signed("acme-release", 2, both.Digest, "db-01"))
	next := c.signed("acme-release", 3, dbOnly.Digest, "db-01", "web-01")
	rolled := must[api.RolloutDetail](t)(c.admin.CreateRollout(ctx, api.RolloutRequest{Spec: fleet.RolloutSpec{Release: both.Digest, Select: []string{"db-01"}}}))
	revoked, rotated := c.key(fleet.RoleAdmin), c.key(fleet.RoleAdmin)
	must[fleet.Key](t)(c.admin.RevokeKey(ctx, revoked.Key.ID))
	must[api.NewKey](t)(c.admin.RotateKey(ctx, rotated.Key.ID))
	short := must[api.NewKey](t)(c.admin.CreateKey(ctx, api.KeyRequest{Owner: "short", Role: fleet.RoleAdmin, ExpiresAt: c.now().Add(time.Hour).UnixMilli()}))

	var rows []attack
	add := func(h, entry, name, want string, f func() error) {
		rows = append(rows, attack{holder: h, entry: entry, name: name, want: want, do: func(*testing.T) string { return code(f()) }})
	}
	admins := func(o *api.Client) map[string]func() error {
		return map[string]func() error{
			"make a key": func() error {
				_, err := o.CreateKey(ctx, api.KeyRequest{Owner: "mallory", Role: fleet.RoleAdmin})
				return err
			},
			"replace the root":   func() error { _, err := o.PutRoot(ctx, c.fleet.RootEnvelope); return err },
			"revoke another key": func() error { _, err := o.RevokeKey(ctx, rotated.Key.ID); return err },
			"get another's key":  func() error { _, err := o.RotateKey(ctx, rotated.Key.ID); return err },
			"make a token":       func() error { _, err := o.CreateToken(ctx, "db-01", api.TokenRequest{Replace: true}); return err },
			"end a machine":      func() error { _, err := o.SetLifecycle(ctx, "db-01", fleet.Decommissioned); return err },
			"change tags":        func() error { _, err := o.SetTags(ctx, "db-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}); return err },
			"register a machine": func() error { return registers(ctx, o) },
			"register a release": func() error { _, err := o.CreateRelease(ctx, next); return err },
			"delete a release":   func() error { return o.DeleteRelease(ctx, dbOnly.Digest) },
			"begin a rollout": func() error {
				_, err := o.CreateRollout(ctx, api.RolloutRequest{Spec: fleet.RolloutSpec{Release: both.Digest, Select: []string{"web-01"}}})
				return err
			},
			"cancel a rollout":     func() error { _, err := o.RolloutVerb(ctx, rolled.ID, api.VerbCancel, api.VerbRequest{}); return err },
			"revert a rollout":     func() error { _, err := o.RolloutVerb(ctx, rolled.ID, api.VerbRevert, api.VerbRequest{}); return err },
			"read the audit trail": func() error { _, err := o.Audit(ctx, fleet.AuditFilter{}, fleet.PageRequest{}); return err },
		}
	}
	readonly, deploy, auditor := c.operator(c.key(fleet.RoleReadonly).Secret), c.operator(c.key(fleet.RoleDeploy).Secret), c.operator(c.key(fleet.RoleAuditor).Secret)
	for _, name := range []string{"make a key", "replace the root", "revoke another key", "make a token", "end a machine", "change tags",
		"register a machine", "register a release", "delete a release", "begin a rollout", "cancel a rollout"} {
		add(apiKey(fleet.RoleReadonly, false), "operators' API", "E09 "+name, "forbidden", admins(readonly)[name])
	}
	for _, name := range []string{"make a key", "replace the root", "get another's key", "end a machine"} {
		add(apiKey(fleet.RoleDeploy, false), "operators' API", "E09 "+name, "forbidden", admins(deploy)[name])
	}
	for _, name := range []string{"make a token", "begin a rollout", "delete a release"} {
		add(apiKey(fleet.RoleAuditor, false), "operators' API", "E09 "+name, "forbidden", admins(auditor)[name])
	}
	limited := c.operator(c.key(fleet.RoleAdmin, "web").Secret)
	for _, name := range []string{"make a key", "replace the root", "get another's key", "make a token", "end a machine", "change tags", "register a machine",
		"register a release", "delete a release", "cancel a rollout", "revert a rollout", "read the audit trail"} {
		add(apiKey(fleet.RoleAdmin, true), "operators' API", "E09 "+name+" of another team", "forbidden", admins(limited)[name])
	}
	add(apiKey(fleet.RoleAdmin, true), "operators' API", "E09 roll a release out to another team", "invalid", func() error {
		_, err := limited.CreateRollout(ctx, api.RolloutRequest{Spec: fleet.RolloutSpec{Release: both.Digest, Select: []string{"db-01"}, Supersede: true}})
		return err
	})
	add(apiKey(fleet.RoleAdmin, true), "operators' API", "E09 give its own machine another team's tag and lose its own", "forbidden", func() error {
		_, err := limited.SetTags(ctx, "web-01", api.TagsRequest{Tags: []fleet.Tag{"db"}})
		return err
	})
	add(apiKey(fleet.RoleAdmin, false)+", revoked", "operators' API", "E09 register a machine", "unauthenticated", func() error { return registers(ctx, c.operator(revoked.Secret)) })
	add(apiKey(fleet.RoleAdmin, false)+", rotated", "operators' API", "E09 register a machine", "unauthenticated", func() error { return registers(ctx, c.operator(rotated.Secret)) })
	rows = append(rows, attack{holder: apiKey(fleet.RoleAdmin, false) + ", expired", entry: "operators' API", name: "E09 register a machine", want: "unauthenticated",
		prepare: func(*testing.T) { c.at(2 * time.Hour) }, do: func(*testing.T) string { return code(registers(ctx, c.operator(short.Secret))) }})
	play(t, c.stage(), rows)
}

// E09: an admin's key is sent to no control plane but the one that it names.
func TestAttacks_WithAControlPlaneOfTheAttacker(t *testing.T) {
	c := newTarget(t)
	full := c.admin.BindKey(c.secret)
	heard := ""
	evil := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard += r.Header.Get("Authorization") }))
	defer evil.Close()
	tls := evil.Client().Transport.(*http.Transport).TLSClientConfig
	s := stage{compared: "what the attacker's control plane heard of the key", state: func(*testing.T) any { return heard }, control: func(t *testing.T) {
		o := must[*api.Client](t)(api.NewClient(api.ClientConfig{BaseURL: evil.URL, Key: c.secret, TLS: tls}))
		_, _ = o.Whoami(t.Context()) // the attacker's answer is no JSON
	}}
	play(t, s, []attack{{holder: network, entry: "nixfleet", name: "E09 another host", want: "refused", do: func(t *testing.T) string {
		o, err := api.NewClient(api.ClientConfig{BaseURL: evil.URL, Key: full, TLS: tls})
		if err == nil {
			_, err = o.Whoami(t.Context())
		}
		if err == nil {
			return ""
		}
		return "refused"
	}}})
}

// A CA's key in the wrong hands is not the key of a machine (E07).
func TestAttacks_WithACAKey(t *testing.T) {
	c := newTarget(t)
	c.enrolled("web-01")
	c.enrolled("web-03")
	must[fleet.Machine](t)(c.admin.SetLifecycle(t.Context(), "web-03", fleet.Decommissioned))
	mint := func(id fleet.MachineID) holder {
		h := holder{id: id, key: newSigner(t)}
		h.cert = mintFor(t, c, h).Raw
		return h
	}
	play(t, c.stage(), []attack{
		{holder: caKey, entry: "check-in", name: "E07 a certificate for a machine's name", want: "shut out",
			do: func(*testing.T) string { return shutOut(c.checkIn(mint("web-01"), "web-01")) }},
		{holder: caKey, entry: "renewal", name: "E07 a certificate for a machine's name", want: "shut out", do: func(t *testing.T) string {
			h := mint("web-01")
			_, err := c.agent(h).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", h.key)})
			return shutOut(err)
		}},
		{holder: caKey, entry: "check-in", name: "E07 a certificate for a decommissioned machine", want: "shut out",
			do: func(*testing.T) string { return shutOut(c.checkIn(mint("web-03"), "web-03")) }},
		{holder: caKey, entry: "check-in", name: "E07 a certificate for a name that is none", want: "shut out",
			do: func(*testing.T) string { return shutOut(c.checkIn(mint("web_01;"), "web-01")) }},
	})
}

// A release key in the wrong hands, after the fleet's root or its revocations shut it
// out; and what no key makes good.
func TestAttacks_WithAReleaseKey(t *testing.T) {
	c := newTarget(t)
	ctx := context.Background()
	c.enrolled("web-01")
	first := c.register(c.signed("acme-release", 1, "", "web-01"))
	second := c.register(c.signed("acme-release", 2, first.Digest, "web-01"))
	must[api.Document](t)(c.admin.PutRevocations(ctx, c.fleet.Revocations(fleet.Revocations{Version: 1, SignedAt: c.now().UnixMilli(), Releases: []fleet.Digest{second.Digest}})))
	send := func(r api.ReleaseRequest) func(*testing.T) string {
		return func(*testing.T) string { _, err := c.admin.CreateRelease(ctx, r); return code(err) }
	}
	good := c.signed("acme-release", 3, second.Digest, "web-01")
	forged := good
	forged.Entries = [][]byte{c.signed("acme-release", 9, "", "web-01").Entries[0]}
	rows := []attack{
		{holder: releaseKey, entry: "release", name: "E03 a second release with a sequence that is taken", want: "conflict", do: send(c.signed("acme-release2", 2, first.Digest, "web-01", "web-02"))},
		{holder: releaseKey, entry: "release", name: "E03 one that skips its predecessor", want: "conflict", do: send(c.signed("acme-release", 3, first.Digest, "web-01"))},
		{holder: releaseKey, entry: "rollout", name: "E02 of a release that is revoked", want: "refused", do: func(*testing.T) string {
			_, err := c.admin.CreateRollout(ctx, api.RolloutRequest{Spec: fleet.RolloutSpec{Release: second.Digest}})
			return code(err)
		}},
		{holder: controlPlane, entry: "release", name: "E01 another entry under a good header", want: "refused", do: send(forged)},
		{holder: controlPlane, entry: "release", name: "E02 signed by a key of no role", want: "refused", do: send(c.signed("mallory", 3, second.Digest, "web-01"))},
		{holder: controlPlane, entry: "release", name: "E02 signed by the revoker", want: "refused", do: send(c.signed("acme-revoker", 3, second.Digest, "web-01"))},
		{holder: controlPlane, entry: "release", name: "E02 not signed", want: "refused", do: send(unsigned(t, good))},
		{holder: releaseKey, entry: "trust documents", name: "E02 revocations by a release key", want: "refused", do: func(t *testing.T) string {
			_, err := c.admin.PutRevocations(ctx, c.fleet.Sign(fleet.TypeRevocations, tt.Payload(t, fleet.Revocations{FleetID: "acme", Version: 2, SignedAt: c.now().UnixMilli(), Releases: []fleet.Digest{}}), "acme-release"))
			return code(err)
		}},
		{holder: database, entry: "trust documents", name: "E03 revocations of an older version", want: "conflict", do: func(*testing.T) string {
			_, err := c.admin.PutRevocations(ctx, c.fleet.Revocations(fleet.Revocations{Version: 0 + 1, SignedAt: c.now().UnixMilli() - 1}))
			return code(err)
		}},
		{holder: timeSource, entry: "rollout", name: "E03 of a release that has expired", want: "refused", prepare: func(*testing.T) { c.at(25 * time.Hour) }, do: func(*testing.T) string {
			_, err := c.admin.CreateRollout(ctx, api.RolloutRequest{Spec: fleet.RolloutSpec{Release: first.Digest}})
			return code(err)
		}},
	}
	play(t, c.stage(), rows)
}
