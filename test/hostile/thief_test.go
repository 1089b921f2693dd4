// SPDX-License-Identifier: MIT

package hostile

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E07, E08, E09: whoever is only on the network, and has no credential.
func TestAttacks_FromTheNetwork(t *testing.T) {
	c := newTarget(t)
	web := c.enrolled("web-01")
	stranger := must[pki.Authority](t)(pki.NewAuthority("nixfleet agent CA", c.now()))
	forged := func(id fleet.MachineID, key string) holder {
		h := holder{id: id, key: newSigner(t)}
		if key == "theirs" {
			h.key = web.key
		}
		r := must[pki.Request](t)(pki.ParseRequest(csr(t, id, h.key)))
		h.cert = must[*x509.Certificate](t)(stranger.Agent(r, c.now())).Raw
		return h
	}
	other := tt.New(t, "acme", func(r *fleet.Root) { r.Expires-- })
	do := func(f func(ctx context.Context) error) func(*testing.T) string {
		return func(t *testing.T) string { return code(f(t.Context())) }
	}
	play(t, c.stage(), []attack{
		{holder: network, entry: "check-in", name: "E07 no certificate", want: "unauthenticated",
			do: do(func(context.Context) error { return c.checkIn(holder{}, "web-01") })},
		{holder: network, entry: "check-in", name: "E07 a certificate of a CA with our CA's name", want: "unauthenticated",
			do: do(func(context.Context) error { return unauthenticated(c.checkIn(forged("web-01", ""), "web-01")) })},
		{holder: network, entry: "check-in", name: "E07 the same for a machine that is not known", want: "unauthenticated",
			do: do(func(context.Context) error { return unauthenticated(c.checkIn(forged("new-01", ""), "new-01")) })},
		{holder: network, entry: "reports", name: "E07 without a certificate", want: "unauthenticated", do: do(func(ctx context.Context) error {
			_, err := c.agent(holder{}).Reports(ctx, []fleet.Report{{ID: rand.Text(), Machine: "web-01", Kind: fleet.ReportRefusal}})
			return err
		})},
		{holder: network, entry: "renewal", name: "E07 without a certificate", want: "unauthenticated", do: do(func(ctx context.Context) error {
			_, err := c.agent(holder{}).Renew(ctx, api.RenewRequest{CSR: csr(t, "web-01", newSigner(t))})
			return err
		})},
		{holder: network, entry: "enrolment", name: "E08 a guessed token", want: "unauthenticated", do: do(func(context.Context) error {
			_, err := c.enroll("nft_web-01_0123456789abcdef_"+api.CAHash(nil), "web-01", newSigner(t))
			return err
		})},
		{holder: network, entry: "enrolment", name: "E08 no token", want: "unauthenticated", do: do(func(context.Context) error {
			_, err := c.enroll("", "web-01", newSigner(t))
			return err
		})},
		{holder: network, entry: "agents' TLS", name: "TLS 1.2", want: "protocol version", do: func(t *testing.T) string {
			conn, err := tls.Dial("tcp", c.addrs.Agents.Addr().String(), &tls.Config{RootCAs: c.roots(), MaxVersion: tls.VersionTLS12})
			if err == nil {
				conn.Close()
				return ""
			}
			if strings.Contains(err.Error(), "protocol version") {
				return "protocol version"
			}
			return err.Error()
		}},
		{holder: network, entry: "operators' API", name: "E09 no key", want: "401", do: func(t *testing.T) string {
			n, _ := c.raw(t, http.MethodPost, "/api/v1/machines", []byte(`{"id":"evil-01"}`))
			return fmt.Sprint(n)
		}},
		{holder: network, entry: "operators' API", name: "E09 a guessed secret of a key that exists", want: "unauthenticated", do: do(func(ctx context.Context) error {
			parts := strings.Split(c.secret, "_")
			parts[2] = strings.Repeat("0", len(parts[2]))
			return registers(ctx, c.operator(strings.Join(parts, "_")))
		})},
		{holder: network, entry: "operators' API", name: "E09 the right key as a password", want: "401", do: func(t *testing.T) string {
			n, _ := c.raw(t, http.MethodPost, "/api/v1/machines", []byte(`{"id":"evil-01"}`), "Authorization", "Basic "+c.secret)
			return fmt.Sprint(n)
		}},
		{holder: network, entry: "bootstrap", name: "E09 a guessed secret", want: "unauthenticated", do: do(func(ctx context.Context) error {
			_, err := c.operator("").BootstrapKey(ctx, api.BootstrapRequest{Secret: "another secret of this length", Owner: "mallory"})
			return err
		})},
		{holder: bootSecret, entry: "bootstrap", name: "E09 a second key by the same secret", want: "unauthenticated", do: do(func(ctx context.Context) error {
			_, err := c.operator("").BootstrapKey(ctx, api.BootstrapRequest{Secret: bootstrapSecret, Owner: "mallory"})
			return err
		})},
		{holder: bootSecret, entry: "bootstrap", name: "E09 a second key after a restart", want: "unauthenticated",
			prepare: c.restart,
			do: do(func(ctx context.Context) error {
				_, err := c.operator("").BootstrapKey(ctx, api.BootstrapRequest{Secret: bootstrapSecret, Owner: "mallory"})
				return err
			})},
		{holder: controlPlane, entry: "trust documents", name: "E02 a root that others signed, with our fleet's name", want: "refused",
			do: do(func(ctx context.Context) error { _, err := c.admin.PutRoot(ctx, other.RootEnvelope); return err })},
	})
}

// unauthenticated makes one of what TLS says: which of the two ends a connection
// first is chance.
func unauthenticated(err error) error {
	if err != nil && fleet.ErrorCode(err) == fleet.Unavailable {
		return fleet.Errorf(fleet.Unauthenticated, "%w", err)
	}
	return err
}

// registers is a write that any operator may try.
func registers(ctx context.Context, o *api.Client) error {
	_, err := o.RegisterMachine(ctx, api.MachineRequest{ID: "evil-01"})
	return err
}

// E08: an enrolment token in the wrong hands.
func TestAttacks_WithAnEnrolmentToken(t *testing.T) {
	c := newTarget(t)
	used := c.token("web-01", false)
	must[holder](t)(c.enroll(used, "web-01", newSigner(t)))
	fresh, late, replaced := c.token("web-02", false), c.token("web-03", false), c.token("web-04", false)
	must[holder](t)(c.enroll(replaced, "web-04", newSigner(t)))
	ended := c.token("web-04", true)
	must[holder](t)(c.enroll(ended, "web-04", newSigner(t)))
	try := func(token string, id fleet.MachineID) func(*testing.T) string {
		return func(t *testing.T) string {
			_, err := c.enroll(token, id, newSigner(t))
			return code(err)
		}
	}
	play(t, c.stage(), []attack{
		{holder: enrolToken, entry: "enrolment", name: "E08 used twice", want: "conflict", do: try(used, "web-01")},
		{holder: enrolToken, entry: "enrolment", name: "E08 used by many at once, after its machine", want: "conflict", do: func(t *testing.T) string {
			var wg sync.WaitGroup
			errs := make([]error, 8)
			for i := range errs {
				wg.Go(func() { _, errs[i] = c.enroll(used, "web-01", newSigner(t)) })
			}
			wg.Wait()
			for _, err := range errs {
				if err == nil {
					return ""
				}
			}
			return code(errs[0])
		}},
		{holder: enrolToken, entry: "enrolment", name: "E08 for another name", want: "forbidden", do: try(fresh, "web-05")},
		{holder: enrolToken, entry: "enrolment", name: "E08 for a machine that has enrolled", want: "forbidden", do: try(fresh, "web-01")},
		{holder: enrolToken, entry: "enrolment", name: "E08 the first token of a machine that was enrolled anew", want: "conflict", do: try(replaced, "web-04")},
		{holder: enrolToken, entry: "enrolment", name: "E08 a token with its machine's name changed", want: "unauthenticated",
			do: try(strings.Replace(fresh, "web-02", "web-01", 1), "web-01")},
		{holder: enrolToken, entry: "operators' API", name: "E09 as an API key", want: "unauthenticated", do: func(t *testing.T) string {
			n, problem := c.raw(t, http.MethodGet, "/api/v1/machines", nil, "Authorization", "Bearer "+fresh)
			if n == http.StatusOK {
				return ""
			}
			return problem
		}},
		{holder: enrolToken, entry: "enrolment", name: "E08 expired", want: "unauthenticated",
			prepare: func(*testing.T) { c.at(25 * time.Hour) }, do: try(late, "web-03")},
		{holder: timeSource, entry: "enrolment", name: "E08 a used token, the control plane's clock set back", want: "conflict",
			prepare: func(*testing.T) { c.at(-30 * time.Minute) }, do: try(used, "web-01")},
		{holder: database, entry: "enrolment", name: "E08 E12 a used token after the database was wiped", want: "unauthenticated",
			prepare: func(t *testing.T) { c.at(0); c.wipe(t) }, do: try(used, "web-01")},
	})
}

// wipe removes the database and keeps the keys.
func (c *target) wipe(t *testing.T) {
	t.Helper()
	c.stop()
	removeDatabase(t, c.dir)
	c.start()
	k := must[api.NewKey](t)(c.operator("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: bootstrapSecret, Owner: "root"}))
	c.secret, c.admin = k.Secret, c.operator(k.Secret)
	must[api.Document](t)(c.admin.PutRoot(t.Context(), c.fleet.RootEnvelope))
}

// E07: whoever has an agent's key and certificate lies about that machine and no
// other, as long as they count.
func TestAttacks_WithAnAgentCertificate(t *testing.T) {
	c := newTarget(t)
	stolen, gone, anew := c.enrolled("web-01"), c.enrolled("web-03"), c.enrolled("web-04")
	c.enrolled("web-02")
	must[fleet.Machine](t)(c.admin.SetLifecycle(t.Context(), "web-03", fleet.Decommissioned))
	must[holder](t)(c.enroll(c.token("web-04", true), "web-04", newSigner(t)))
	first := c.register(c.signed("acme-release", 1, "", "web-01", "web-02"))
	second := c.register(c.signed("acme-release", 2, first.Digest, "web-02"))
	rolled := must[api.RolloutDetail](t)(c.admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: second.Digest, Select: []string{"web-02"}}}))
	say := func(kind fleet.ReportKind, m fleet.MachineID) fleet.Report {
		return fleet.Report{ID: rand.Text(), Machine: m, Kind: kind, Reason: fleet.ReasonBadSignature, Rollout: rolled.ID, Attempt: 1, Digest: second.Digest}
	}
	reports := func(r ...fleet.Report) func(*testing.T) string {
		return func(t *testing.T) string {
			_, err := c.agent(stolen).Reports(t.Context(), r)
			return code(err)
		}
	}
	// What a machine may say is kept as its own report, and counts for nothing.
	counts := func(r fleet.Report) func(*testing.T) string {
		return func(t *testing.T) string {
			if _, err := c.agent(stolen).Reports(t.Context(), []fleet.Report{r}); err != nil {
				return code(err)
			}
			c.applied(t, "web-01", r.ID)
			return "kept, and without effect"
		}
	}
	healthy := say(fleet.ReportOutcome, "web-01")
	healthy.Outcome, healthy.Reason = fleet.OutcomeLive, ""
	play(t, c.stage(), []attack{
		{holder: agentCert, entry: "check-in", name: "E07 as another machine", want: "forbidden",
			do: func(*testing.T) string { return code(c.checkIn(stolen, "web-02")) }},
		{holder: agentCert, entry: "reports", name: "E07 of another machine", want: "forbidden", do: reports(say(fleet.ReportOutcome, "web-02"))},
		{holder: agentCert, entry: "reports", name: "E07 one of another machine among its own", want: "forbidden",
			do: reports(say(fleet.ReportRefusal, "web-01"), say(fleet.ReportRefusal, "web-02"))},
		{holder: agentCert, entry: "reports", name: "H01 success in a rollout in which it takes no part", want: "kept, and without effect", do: counts(healthy)},
		{holder: agentCert, entry: "reports", name: "a refusal that never was", want: "kept, and without effect", do: counts(say(fleet.ReportRefusal, "web-01"))},
		{holder: agentCert, entry: "reports", name: "more than 1,000 at once", want: "too-large", do: func(t *testing.T) string {
			many := make([]fleet.Report, 1001)
			for i := range many {
				many[i] = say(fleet.ReportRefusal, "web-01")
			}
			_, err := c.agent(stolen).Reports(t.Context(), many)
			return code(err)
		}},
		{holder: agentCert, entry: "release", name: "E01 another machine's entry", want: "not-found", do: func(t *testing.T) string {
			_, err := c.agent(stolen).Release(t.Context(), second.Digest)
			return code(err)
		}},
		{holder: agentCert, entry: "release", name: "E01 its own bundle names no other machine", want: "no other machine", do: func(t *testing.T) string {
			raw := must[[]byte](t)(c.agent(stolen).Release(t.Context(), first.Digest))
			var b struct{ Entry []byte }
			if err := json.Unmarshal(raw, &b); err != nil || !strings.Contains(string(b.Entry), "web-01") {
				return fmt.Sprintf("%v: %s", err, b.Entry)
			}
			if strings.Contains(string(raw), "web-02") || strings.Contains(string(b.Entry), "web-02") {
				return ""
			}
			return "no other machine"
		}},
		{holder: agentCert, entry: "renewal", name: "E07 for another machine's name", want: "forbidden", do: func(t *testing.T) string {
			_, err := c.agent(stolen).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-02", stolen.key)})
			return code(err)
		}},
		{holder: agentCert, entry: "renewal", name: "for a key of the thief", want: "forbidden", do: func(t *testing.T) string {
			_, err := c.agent(stolen).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", newSigner(t))})
			return code(err)
		}},
		{holder: agentCert, entry: "check-in", name: "E07 of a decommissioned machine", want: "shut out",
			do: func(*testing.T) string { return shutOut(c.checkIn(gone, "web-03")) }},
		{holder: agentCert, entry: "renewal", name: "E07 of a decommissioned machine", want: "shut out", do: func(t *testing.T) string {
			_, err := c.agent(gone).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-03", gone.key)})
			return shutOut(err)
		}},
		{holder: agentCert, entry: "check-in", name: "E07 of a machine that was enrolled anew", want: "shut out",
			do: func(*testing.T) string { return shutOut(c.checkIn(anew, "web-04")) }},
		{holder: agentCert, entry: "renewal", name: "E07 of a machine that was enrolled anew", want: "shut out", do: func(t *testing.T) string {
			_, err := c.agent(anew).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-04", anew.key)})
			return shutOut(err)
		}},
		{holder: timeSource, entry: "check-in", name: "E07 an ended key, the control plane's clock a year ahead and right again", want: "shut out",
			prepare: func(t *testing.T) { c.at(365 * 24 * time.Hour); _ = c.checkIn(anew, "web-04"); c.at(0) },
			do:      func(*testing.T) string { return shutOut(c.checkIn(anew, "web-04")) }},
		{holder: agentCert, entry: "operators' API", name: "E09 a certificate for a key", want: "401", do: func(t *testing.T) string {
			pair := tls.Certificate{Certificate: [][]byte{stolen.cert}, PrivateKey: stolen.key}
			h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots(), Certificates: []tls.Certificate{pair}}}}
			defer h.CloseIdleConnections()
			res := must[*http.Response](t)(h.Get(base(c.addrs.Operators) + "/api/v1/machines"))
			res.Body.Close()
			return fmt.Sprint(res.StatusCode)
		}},
		{holder: agentCert, entry: "check-in", name: "A18 after its end", want: "unauthenticated",
			prepare: func(*testing.T) { c.at(8 * 24 * time.Hour) }, do: func(*testing.T) string { return code(c.checkIn(stolen, "web-01")) }},
	})
}

// A18: an expired certificate can be renewed for a while, by the key that it is for.
func TestAttacks_WithAnOldAgentCertificate(t *testing.T) {
	c := newTarget(t)
	stolen := c.enrolled("web-01")
	renew := func(key crypto.Signer) func(*testing.T) string {
		return func(t *testing.T) string {
			_, err := c.agent(stolen).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", key)})
			return shutOut(err)
		}
	}
	after := func(d time.Duration) func(*testing.T) {
		return func(t *testing.T) { c.at(d); c.restart(t) }
	}
	play(t, c.stage(), []attack{
		{holder: agentCert, entry: "renewal", name: "A18 late, for a key of the thief", want: "shut out", prepare: after(60 * 24 * time.Hour), do: renew(newSigner(t))},
		{holder: agentCert, entry: "check-in", name: "A18 late", want: "shut out", do: func(*testing.T) string { return shutOut(c.checkIn(stolen, "web-01")) }},
		{holder: agentCert, entry: "renewal", name: "A18 more than 90 days after its end", want: "shut out", prepare: after(98 * 24 * time.Hour), do: renew(stolen.key)},
	})
}

// shutOut is how a machine is refused that may not even connect: by its handshake
// or by a reply, as chance has it.
func shutOut(err error) string {
	switch c := fleet.ErrorCode(err); {
	case err == nil:
		return ""
	case c == fleet.Unavailable || c == fleet.Unauthenticated || c == fleet.Forbidden:
		return "shut out"
	default:
		return string(c)
	}
}

// applied waits until the control plane has seen a report of a machine.
func (c *target) applied(t *testing.T, m fleet.MachineID, id string) {
	t.Helper()
	c.until(t, "report "+id, func() bool {
		return slices.ContainsFunc(must[api.Page[fleet.Report]](t)(c.admin.MachineReports(t.Context(), m, fleet.PageRequest{})).Items, func(r fleet.Report) bool { return r.ID == id })
	})
}
