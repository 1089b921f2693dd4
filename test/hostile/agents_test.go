// SPDX-License-Identifier: MIT

package hostile

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E01-E06, A14, A17: a real agent whose control plane, network and cache are in an
// attacker's hands, with their keys.
func TestAgentAttacks(t *testing.T) {
	v := newVictim(t)
	first, second, third := v.build(testbed.System{Generation: "1"}), v.build(testbed.System{Generation: "2"}), v.build(testbed.System{Generation: "3"})
	for _, p := range []string{first, second, third} {
		v.entry(p)
		if err := v.cache.Push(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	release := func(seq uint64, path string) trust.Bundle {
		return v.bundle(v.fleet, v.header(v.fleet, seq), []fleet.Entry{v.entry(path)}, "acme-release")
	}
	five, six := release(5, first), release(6, second)
	s := stage{
		compared: "what the machine runs and boots, its floor and all that it believes", state: v.state,
		control: func(t *testing.T) { v.live(t, five) },
		undo:    func(t *testing.T) { v.live(t, six) }, // now the floor is 5
	}
	rows := v.lies(release(7, third), third)
	rows = append(rows, v.forgedDocuments()...)
	rows = append(rows, v.networkAttacks()...)
	rows = append(rows, v.cacheAttacks(third)...)
	sixth := v.offer(t, six)
	rows = append(rows,
		attack{holder: controlPlane, entry: "order", name: "E04 to revert a release that was never applied", want: "revert-unknown",
			do: func(t *testing.T) string {
				return string(v.give(t, v.offer(t, release(9, third)), true, 20*time.Second).Reason)
			}},
		attack{holder: controlPlane, entry: "order", name: "E04 to revert the release of the floor", want: "revert-late",
			do: func(t *testing.T) string { return string(v.give(t, v.offer(t, five), true, 20*time.Second).Reason) }},
		attack{holder: controlPlane, entry: "order", name: "E04 to revert a release twice", want: "revert-repeated",
			prepare: func(t *testing.T) {
				if r := v.give(t, sixth, true, 40*time.Second); r.Outcome != fleet.OutcomeReverted {
					t.Fatalf("an honest revert ended %s: %s", r.Outcome, r.Message)
				}
				v.live(t, six)
			},
			do: func(t *testing.T) string { return string(v.give(t, sixth, true, 20*time.Second).Reason) }},
		attack{holder: controlPlane, entry: "order", name: "E04 to apply the last good release, after a revert to it", want: "revert-repeated",
			do: func(t *testing.T) string { return string(v.give(t, v.offer(t, five), false, 20*time.Second).Reason) }},
		attack{holder: controlPlane, entry: "order", name: "A17 an older release after the machine lost its state", want: "below-floor",
			prepare: func(t *testing.T) { v.lose(t, third, "") },
			do: func(t *testing.T) string {
				return string(v.give(t, v.offer(t, release(4, third)), false, 20*time.Second).Reason)
			}},
		attack{holder: controlPlane, entry: "order", name: "A17 an older release after the machine lost its state and the copy of its floor", want: "waits for its floor",
			prepare: func(t *testing.T) { v.lose(t, third, "/nix/var/nix/gcroots/nixfleet/floor.json") },
			do: func(t *testing.T) string {
				v.ordered(v.offer(t, release(4, third)), false, 20*time.Second)
				v.liar.await(t, "the agent says that it waits", func() bool { return strings.Contains(v.liar.seen.Waiting, "floor") })
				return "waits for its floor"
			}},
	)
	play(t, s, rows)
}

// lose takes the agent's state away, and one more file. It returns when the agent
// that comes next is at work: it refuses what no signer signed.
func (v *victim) lose(t *testing.T, path, more string) {
	t.Helper()
	v.sh(t, "systemctl stop nixfleet-agent; rm -f /var/lib/nixfleet/agent/journal.json* "+more+"; systemctl start nixfleet-agent")
	forged := v.bundle(v.fleet, v.header(v.fleet, 8), []fleet.Entry{v.entry(path)}, "mallory")
	if r := v.give(t, v.offer(t, forged), false, 20*time.Second); r.Reason != fleet.ReasonUnknownKey {
		t.Fatalf("after the loss an order ended %s: %s", r.Reason, r.Message)
	}
}

// lies are releases that nobody signed for this machine, or that are too old.
func (v *victim) lies(good trust.Bundle, path string) []attack {
	e := v.entry(path)
	other := e
	other.ID = "web-02"
	sign := func(f *tt.Fleet, edit func(*fleet.Header), label string, entries ...fleet.Entry) trust.Bundle {
		h := v.header(f, 7)
		if edit != nil {
			edit(&h)
		}
		if len(entries) == 0 {
			entries = []fleet.Entry{e}
		}
		return v.bundle(f, h, entries, label)
	}
	with := func(edit func(*trust.Bundle)) trust.Bundle { b := good; edit(&b); return b }
	of := func(edit func(*trust.Envelope)) trust.Bundle {
		env, err := trust.ParseEnvelope(good.Envelope, fleet.TypeRelease)
		if err != nil {
			v.t.Fatal(err)
		}
		edit(&env)
		return with(func(b *trust.Bundle) { b.Envelope = env.Encode() })
	}
	text := func(old, by string) trust.Bundle {
		return v.unchecked(v.header(v.fleet, 7), bytes.Replace(good.Entry, []byte(old), []byte(by), 1), "acme-release")
	}
	var rows []attack
	for _, r := range []struct {
		holder, name string
		b            trust.Bundle
		want         fleet.Reason
	}{
		{controlPlane, "E01 another store path", with(func(b *trust.Bundle) {
			b.Entry = bytes.Replace(b.Entry, []byte("/nix/store/"), []byte("/nix/store/0"), 1)
		}), "proof-mismatch"},
		{controlPlane, "E01 another machine's entry and proof", sign(v.fleet, nil, "acme-release", other), "wrong-machine"},
		{controlPlane, "E01 another machine's entry under this one's name", with(func(b *trust.Bundle) { b.Entry = bytes.Replace(b.Entry, []byte(e.NarHash), []byte("sha256:0"), 1) }), "proof-mismatch"},
		{controlPlane, "E01 another fleet's release", v.bundle(v.other, v.header(v.other, 7), []fleet.Entry{e}, "evil-release"), "unknown-key"},
		{controlPlane, "E01 another line's release", sign(v.fleet, func(h *fleet.Header) { h.Line = "staging" }, "acme-release"), "wrong-line"},
		{controlPlane, "E02 not signed", of(func(env *trust.Envelope) { env.Signatures = nil }), "not-signed"},
		{controlPlane, "E02 signed by a key of its own", sign(v.fleet, nil, "mallory"), "unknown-key"},
		{controlPlane, "E02 signed by the revoker", sign(v.fleet, nil, "acme-revoker"), "unknown-key"},
		{controlPlane, "E02 signed by the root key", sign(v.fleet, nil, "acme-root"), "unknown-key"},
		{controlPlane, "E02 another kind of document", of(func(env *trust.Envelope) { env.PayloadType = fleet.TypeEvidence }), "wrong-type"},
		{controlPlane, "E02 the signature of an older release", with(func(b *trust.Bundle) { b.Envelope = resigned(v, good) }), "bad-signature"},
		{controlPlane, "E03 below the floor", sign(v.fleet, func(h *fleet.Header) { h.Sequence = 4 }, "acme-release"), "below-floor"},
		{controlPlane, "E03 expired", sign(v.fleet, func(h *fleet.Header) { h.CreatedAt, h.Expires = 1, time.Now().UnixMilli()-1 }, "acme-release"), "expired"},
		{releaseKey, "E03 a second release with the number of the one that runs", sign(v.fleet, func(h *fleet.Header) { h.Sequence = 6 }, "acme-release"), "sequence-conflict"},
		{controlPlane, "E05 a longer confirm window", rewritten(good, `"confirmWindowMs":5000`, `"confirmWindowMs":50000`), "bad-signature"},
		{controlPlane, "E05 a cache of the attacker", rewritten(good, ":8080", ":9080"), "bad-signature"},
		{controlPlane, "E05 a system without a watchdog", with(func(b *trust.Bundle) {
			b.Entry = bytes.Replace(b.Entry, []byte(`{"id"`), []byte(`{"detach":true,"id"`), 1)
		}), "proof-mismatch"},
		{releaseKey, "E06 a path out of the store", text(path, path+"/../../../tmp/evil"), "bad-store-path"},
		{releaseKey, "E06 two paths", text(`"storePath"`, `"storePath":"`+path+`","storePath"`), "malformed"},
		{releaseKey, "E06 a critical field that the agent does not know", text(`{"id"`, `{"crit":["sandbox"],"sandbox":true,"id"`), "critical-field"},
		{controlPlane, "E06 an endless proof", with(func(b *trust.Bundle) { b.Proof.Hashes = make([]fleet.Digest, 5000) }), "proof-mismatch"},
		{controlPlane, "E06 half an envelope", with(func(b *trust.Bundle) { b.Envelope = b.Envelope[:len(b.Envelope)/2] }), "malformed"},
	} {
		rows = append(rows, attack{holder: r.holder, entry: "release", name: r.name, want: string(r.want), do: func(t *testing.T) string {
			out := v.give(t, v.offer(t, r.b), false, 20*time.Second)
			if out.Outcome != fleet.OutcomeRefused {
				return string(out.Outcome)
			}
			return string(out.Reason)
		}})
	}
	return append(rows, attack{holder: controlPlane, entry: "release", name: "E01 another release than was ordered", want: "malformed", do: func(t *testing.T) string {
		d := v.offer(t, good)
		asked := fleet.SHA256([]byte("another"))
		v.liar.update(func() { v.liar.served[api.PathRelease+string(asked)] = v.liar.served[api.PathRelease+string(d)] })
		return string(v.give(t, asked, false, 20*time.Second).Reason)
	}})
}

// resigned has a good release's payload under the signature of another.
func resigned(v *victim, b trust.Bundle) []byte {
	e, err := trust.ParseEnvelope(b.Envelope, fleet.TypeRelease)
	if err != nil {
		v.t.Fatal(err)
	}
	old := v.bundle(v.fleet, v.header(v.fleet, 3), []fleet.Entry{tt.Entry(victimID, "old")}, "acme-release")
	o, err := trust.ParseEnvelope(old.Envelope, fleet.TypeRelease)
	if err != nil {
		v.t.Fatal(err)
	}
	e.Signatures = o.Signatures
	return e.Encode()
}

// forgedDocuments are trust documents that the right role has not signed.
func (v *victim) forgedDocuments() []attack {
	now := time.Now().UnixMilli()
	list := fleet.Revocations{FleetID: "acme", Version: 9, SignedAt: now, Releases: []fleet.Digest{}}
	ahead := list
	ahead.SignedAt += 10 * tt.Day
	var rows []attack
	for _, r := range []struct {
		holder, name string
		document     []byte
		want         fleet.Reason
	}{
		{controlPlane, "E02 revocations by a key of its own", v.fleet.Sign(fleet.TypeRevocations, tt.Payload(v.t, list), "mallory"), "unknown-key"},
		{releaseKey, "E02 revocations by a release key", v.fleet.Sign(fleet.TypeRevocations, tt.Payload(v.t, list), "acme-release"), "unknown-key"},
		{controlPlane, "E02 a timestamp as revocations", v.fleet.Sign(fleet.TypeTimestamp, tt.Payload(v.t, list), "acme-revoker"), "wrong-type"},
		{timeSource, "revocations from the future", v.fleet.Sign(fleet.TypeRevocations, tt.Payload(v.t, ahead), "acme-revoker"), "clock-behind"},
	} {
		rows = append(rows, attack{holder: r.holder, entry: "trust documents", name: r.name, want: string(r.want), do: func(t *testing.T) string {
			return v.deliver(t, func(d *fleet.DocumentDigests) {
				d.Revocations = fleet.SHA256(r.document)
				v.liar.served[api.PathDocument+string(d.Revocations)] = r.document
			})
		}})
	}
	return append(rows, attack{holder: controlPlane, entry: "trust documents", name: "E02 a next root that the old one did not sign", want: "root-chain", do: func(t *testing.T) string {
		next := v.fleet.Root
		next.Version = 2
		return v.deliver(t, func(d *fleet.DocumentDigests) {
			envelope := v.fleet.Sign(fleet.TypeRoot, tt.Payload(v.t, next), "mallory")
			d.Root = fleet.SHA256(envelope)
			v.liar.served[api.PathRoot+"2"] = envelope
		})
	}})
}

// deliver offers a document and returns why it is refused.
func (v *victim) deliver(t *testing.T, set func(*fleet.DocumentDigests)) string {
	t.Helper()
	v.order++
	var had int
	v.liar.update(func() {
		had = len(v.liar.reports)
		v.liar.orders = api.Orders{Etag: fmt.Sprint(v.order), WaitMs: 20_000}
		set(&v.liar.orders.Documents)
	})
	reason := ""
	v.liar.await(t, "a refused document", func() bool {
		for _, r := range v.liar.reports[had:] {
			if r.Kind == fleet.ReportRefusal {
				reason = string(r.Reason)
			}
		}
		return reason != ""
	})
	return reason
}

// networkAttacks put a server of the attacker before the control plane.
func (v *victim) networkAttacks() []attack {
	var rows []attack
	for _, cert := range []string{"another CA's", "another host's"} {
		rows = append(rows, attack{holder: network, entry: "check-in", name: "E07 a server with " + cert + " certificate", want: "no request", do: func(t *testing.T) string {
			var calls, shakes int
			v.sh(t, "systemctl stop nixfleet-agent") // its open connections are to the honest one
			v.liar.update(func() { v.liar.shows, calls, shakes = cert, v.liar.calls, v.liar.shakes })
			v.sh(t, "systemctl start nixfleet-agent")
			v.liar.await(t, "two handshakes", func() bool { return v.liar.shakes >= shakes+2 })
			v.liar.mu.Lock()
			heard := v.liar.calls - calls
			v.liar.mu.Unlock()
			v.liar.update(func() { v.liar.shows = "" })
			v.liar.await(t, "the agent is online again", func() bool { return v.liar.calls > calls })
			if heard > 0 {
				return fmt.Sprint(heard, " requests")
			}
			return "no request"
		}})
	}
	return rows
}

// cacheAttacks offer a good release whose cache is evil.
func (v *victim) cacheAttacks(path string) []attack {
	v.evil.Other = path
	h := v.header(v.fleet, 7)
	fresh := v.build(testbed.System{Generation: "4", PayloadMiB: 1})
	if err := v.cache.Push(v.t.Context(), fresh); err != nil {
		v.t.Fatal(err)
	}
	good := v.bundle(v.fleet, h, []fleet.Entry{v.entry(fresh)}, "acme-release")
	payload := v.payload(fresh)
	var rows []attack
	for _, r := range []struct {
		fault evil.Fault
		want  fleet.Reason
	}{
		{evil.DropSignature, fleet.ReasonBadCacheSig}, {evil.SwapPath, fleet.ReasonBadCacheSig}, {evil.SwapNAR, fleet.ReasonNarHashMismatch},
		{evil.AlterNAR, fleet.ReasonFetchFailed}, {evil.TruncateNAR, fleet.ReasonFetchFailed},
	} {
		rows = append(rows, attack{holder: cache, entry: "archives", name: "A14 " + string(r.fault), want: "failed", do: func(t *testing.T) string {
			v.evil.Set(r.fault)
			defer v.evil.Set(evil.None)
			return string(v.give(t, v.offer(t, good), false, 6*time.Second).Outcome)
		}})
	}
	return append(rows, attack{holder: cacheKey, entry: "archives", name: "A14 another payload, signed", want: "closure-mismatch",
		prepare: func(t *testing.T) { v.forge(t, fresh, payload) },
		do: func(t *testing.T) string {
			v.evil.Set(evil.Forge)
			defer v.evil.Set(evil.None)
			return string(v.give(t, v.offer(t, good), false, 20*time.Second).Reason)
		}})
}

// payload is the path of a system's random bytes.
func (v *victim) payload(path string) string {
	v.t.Helper()
	for _, p := range must[[]fleet.ClosurePath](v.t)(nix.Closure(v.t.Context(), fleet.StorePath(path))) {
		if strings.Contains(string(p.Path), "-payload-") {
			return string(p.Path)
		}
	}
	v.t.Fatal("the system has no payload")
	return ""
}

// forge signs, with the cache's key, other bytes for the payload of a system.
func (v *victim) forge(t *testing.T, path, payload string) {
	t.Helper()
	ctx := t.Context()
	if res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: []string{"--query", "--referrers-closure", payload}}); err == nil { // it may be gone already
		must[proc.Result](t)(proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: append([]string{"--delete"}, strings.Fields(string(res.Stdout))...)}))
	}
	if again := v.build(testbed.System{Generation: "4", PayloadMiB: 1}); again != path {
		t.Fatalf("built %s, then %s", path, again)
	}
	twin := must[*testbed.Cache](t)(v.cache.Twin(t.TempDir()))
	if err := twin.Push(ctx, path); err != nil {
		t.Fatal(err)
	}
	v.evil.Forged = twin.Handler()
}
