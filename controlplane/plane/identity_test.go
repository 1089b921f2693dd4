// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// ca issues certificates, by number, and knows each one's key.
type ca struct {
	mu     sync.Mutex
	w      *world
	issued []enrolment.Certificate
}

// issue signs for a key.
func (c *ca) issue(key fleet.Digest) enrolment.Issue {
	return func(m fleet.MachineID) (string, []byte, int64, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		serial := fmt.Sprintf("%02x", len(c.issued)+1)
		c.issued = append(c.issued, enrolment.Certificate{Machine: m, Serial: serial, Key: key})
		return serial, []byte(serial), c.w.now().Add(7 * 24 * time.Hour).UnixMilli(), nil
	}
}

// owner is the model of one machine: which key is its own, if any.
type owner struct {
	*ca
	tb   *testing.T
	keys []fleet.Digest
	key  fleet.Digest
	life fleet.Lifecycle
}

func (o *owner) newKey() fleet.Digest {
	k := fleet.SHA256(fmt.Append(nil, "key ", len(o.keys)))
	o.keys = append(o.keys, k)
	return k
}

func (o *owner) redeem(key fleet.Digest) error {
	ctx := o.tb.Context()
	tok, err := o.w.plane().Enrolment.CreateToken(ctx, alice, "web-01", api.TokenRequest{Replace: true}, api.CAHash(nil))
	if err != nil {
		return err
	}
	_, _, err = o.w.plane().Enrolment.RedeemToken(ctx, tok.Token, enrolment.Keys{Certificate: key}, o.issue(key))
	return err
}

// renew asks for a certificate of a key, by one of the same key.
func (o *owner) renew(key fleet.Digest, issue enrolment.Issue) ([]byte, error) {
	return o.w.plane().Enrolment.Renew(o.tb.Context(), enrolment.Certificate{Machine: "web-01", Key: key}, enrolment.Keys{Certificate: key}, issue)
}

func (o *owner) actions() map[string]func(*rapid.T) {
	ctx := o.tb.Context()
	return map[string]func(*rapid.T){
		"replace": func(t *rapid.T) {
			key := o.newKey()
			err := o.redeem(key)
			if (err == nil) != (o.life != fleet.Decommissioned) {
				t.Fatalf("a new key, and the machine is %s: %v", o.life, err)
			}
			if err == nil {
				o.key = key
				if o.life == fleet.Pending {
					o.life = fleet.Active
				}
			}
		},
		"replace by a key that was used": func(t *rapid.T) {
			key := rapid.SampledFrom(o.keys).Draw(t, "key")
			if o.life == fleet.Decommissioned {
				t.Skip("a decommissioned machine gets no token")
			}
			// The token is for a key that was tried while the machine was gone, or refused.
			if err := o.redeem(key); err == nil {
				for _, c := range o.issued[:len(o.issued)-1] {
					if c.Key == key {
						t.Fatalf("a key that had a certificate was enrolled again")
					}
				}
				o.key = key
				if o.life == fleet.Pending {
					o.life = fleet.Active
				}
			}
		},
		"renew": func(t *rapid.T) {
			key := rapid.SampledFrom(o.keys).Draw(t, "key")
			_, err := o.renew(key, o.issue(key))
			if good := key == o.key && o.life != fleet.Decommissioned; (err == nil) != good {
				t.Fatalf("a renewal for the machine's own key: %v, and it gave %v", good, err)
			}
		},
		"lifecycle": func(t *rapid.T) {
			next := map[fleet.Lifecycle]fleet.Lifecycle{fleet.Active: fleet.Decommissioned, fleet.Decommissioned: fleet.Pending, fleet.Pending: fleet.Active}[o.life]
			must[fleet.Machine](o.tb)(o.w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: next}))
			if o.life = next; next == fleet.Decommissioned {
				o.key = ""
			}
		},
		"clock":   func(t *rapid.T) { o.w.advance(time.Duration(rapid.IntRange(-60, 60).Draw(t, "days")) * 24 * time.Hour) },
		"sweep":   func(*rapid.T) { rest(61 * time.Minute) }, // what is old is deleted
		"restart": func(*rapid.T) { o.w.restart() },
		"": func(t *rapid.T) {
			for _, c := range o.issued {
				err := o.w.plane().Enrolment.Accept(ctx, c)
				if good := c.Key == o.key && o.life != fleet.Decommissioned; (err == nil) != good {
					t.Fatalf("certificate %s: of the machine's key: %v, and Accept says %v", c.Serial, good, err)
				}
			}
		},
	}
}

// E07: a certificate counts while its key is the machine's, whatever clocks,
// restarts and the deletion of old rows do. A key that has ended is never the
// machine's again.
func TestAccept_FollowsTheMachinesKeyAlone(t *testing.T) {
	runs, found := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 15 && !found {
			return // each is a file of its own, synced at every write
		}
		var failed any // rapid fails by a panic, which must not leave the bubble
		bubble(t, func(t *testing.T) {
			defer func() { failed = recover() }()
			w := newWorld(t)
			w.advance(365 * 24 * time.Hour)
			o := &owner{ca: &ca{w: w}, tb: t, life: fleet.Active}
			o.key = o.newKey()
			if err := o.redeem(o.key); err != nil {
				rt.Fatal(err)
			}
			rt.Repeat(o.actions())
		})
		if failed != nil {
			found = true
			panic(failed)
		}
	})
}

// E07: a thief who has the key renews without a pause while --replace is used.
// Nothing that he holds counts afterwards, whichever came first.
func TestRenew_ThatIsInFlightDoesNotSurviveReplace(t *testing.T) {
	w := newWorld(t)
	o := &owner{ca: &ca{w: w}, tb: t}
	stolen := o.newKey()
	if err := o.redeem(stolen); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	tok := must[api.Token](t)(w.plane().Enrolment.CreateToken(ctx, alice, "web-01", api.TokenRequest{Replace: true}, api.CAHash(nil)))
	// The renewal is being signed when the token is used: the commit of the one
	// comes before that of the other.
	signing, redeemed := make(chan struct{}), make(chan error, 1)
	fresh := o.newKey()
	go func() {
		<-signing
		_, _, err := w.plane().Enrolment.RedeemToken(ctx, tok.Token, enrolment.Keys{Certificate: fresh}, o.issue(fresh))
		redeemed <- err
	}()
	var once sync.Once
	var advanced atomic.Int32
	var thieves sync.WaitGroup
	for range 8 {
		thieves.Go(func() {
			for range 50 {
				_, err := o.renew(stolen, func(m fleet.MachineID) (string, []byte, int64, error) {
					once.Do(func() { close(signing) })
					return o.issue(stolen)(m)
				})
				if err != nil {
					wantCode(t, err, fleet.Forbidden)
				}
				if advanced.Add(1) <= 10 { // the token is good for a day
					w.advance(2 * time.Hour) // past the repeat
				}
			}
		})
	}
	if err := <-redeemed; err != nil {
		t.Fatal(err)
	}
	thieves.Wait()
	_, err := o.renew(stolen, o.issue(stolen))
	wantCode(t, err, fleet.Forbidden)
	for range 2 {
		counts := 0
		for _, c := range o.issued {
			if w.plane().Enrolment.Accept(ctx, c) == nil {
				counts++
				if c.Key != fresh {
					t.Errorf("certificate %s of the stolen key counts after --replace", c.Serial)
				}
			}
		}
		if counts != 1 {
			t.Errorf("%d certificates count, want that of the new key", counts)
		}
		w.restart()
	}
}

// A renewal whose answer was lost gets the same certificate again for an hour,
// and is one entry of the audit trail.
func TestRenew_RepeatsItsAnswerForAnHour(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		o := &owner{ca: &ca{w: w}, tb: t}
		key := o.newKey()
		if err := o.redeem(key); err != nil {
			t.Fatal(err)
		}
		rest(3 * 24 * time.Hour)
		renew := func() string {
			return string(must[[]byte](t)(o.renew(key, o.issue(key))))
		}
		first := renew()
		rest(59 * time.Minute)
		w.restart()
		if again := renew(); again != first {
			t.Errorf("59 minutes later: certificate %s, want %s again", again, first)
		}
		rest(time.Minute)
		if later := renew(); later == first {
			t.Error("an hour later the same certificate was given")
		}
		page := must[api.Page[fleet.AuditEntry]](t)(w.store.Audit(t.Context(), fleet.AuditFilter{Action: fleet.ActionMachineRenew}, fleet.PageRequest{}))
		if len(page.Items) != 2 {
			t.Errorf("%d renewals in the audit trail, want 2", len(page.Items))
		}
	})
}

// A database that was wiped knows no keys: what comes with a good certificate
// waits to be adopted, with its key. No other key gets in under that name.
func TestAccept_WithoutARowTakesTheKeyAndWaits(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	accept := func(key string) error {
		return w.plane().Enrolment.Accept(ctx, enrolment.Certificate{Machine: "web-01", Serial: key, Key: fleet.SHA256([]byte(key))})
	}
	if err := accept("first"); err != nil {
		t.Fatal(err)
	}
	m := must[fleet.Machine](t)(w.plane().Machine(ctx, alice, "web-01"))
	if m.Lifecycle != fleet.Pending || m.Key != fleet.SHA256([]byte("first")) {
		t.Fatalf("it is %s with key %s", m.Lifecycle, m.Key.Short())
	}
	wantCode(t, accept("second"), fleet.Forbidden)
	for _, next := range []fleet.Lifecycle{fleet.Decommissioned, fleet.Pending} {
		must[fleet.Machine](t)(w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: next}))
		wantCode(t, accept("first"), fleet.Forbidden)
	}
	if err := accept("second"); err != nil {
		t.Error(err)
	}
	m = must[fleet.Machine](t)(w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: fleet.Active}))
	if m.EnrolledAt == 0 {
		t.Error("made active it needs no --replace")
	}
	w.restart()
	if err := accept("second"); err != nil {
		t.Error(err)
	}
	wantCode(t, accept("first"), fleet.Forbidden)
}

// Of many keys under a new name one is taken.
func TestAccept_TakesOneOfManyKeys(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var errs [8]error
	for i := range errs {
		wg.Go(func() {
			errs[i] = w.plane().Enrolment.Accept(t.Context(), enrolment.Certificate{Machine: "web-01", Serial: "0a", Key: fleet.SHA256([]byte{byte(i)})})
		})
	}
	wg.Wait()
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d keys were taken", good)
	}
}

// A machine that enrolled before keys were kept takes the key of the first
// certificate that is listed and not revoked.
func TestAccept_TakesTheKeyOfAListedCertificate(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.fleetOf("web-01", "web-02")
	// web-03 had enrolled, and waits again.
	must[fleet.Machine](t)(w.plane().RegisterMachine(ctx, alice, api.MachineRequest{ID: "web-03"}))
	err := w.store.Write(ctx, func(tx *store.Tx) error {
		gone, err := tx.Machine(ctx, "web-03")
		if err != nil {
			return err
		}
		gone.EnrolledAt = 1
		if err := tx.UpdateMachine(ctx, &gone); err != nil {
			return err
		}
		for _, serial := range []string{"0a", "0b"} {
			if err := tx.AddCertificate(ctx, store.Certificate{Serial: serial, Machine: "web-01", IssuedAt: 1, NotAfter: 2}); err != nil {
				return err
			}
			if serial == "0a" {
				if _, err := tx.EndIdentity(ctx, "web-01", nil, 2); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.restart()
	accept := func(m fleet.MachineID, serial, key string) error {
		return w.plane().Enrolment.Accept(ctx, enrolment.Certificate{Machine: m, Serial: serial, Key: fleet.SHA256([]byte(key))})
	}
	for _, tc := range []struct{ why, machine, serial string }{
		{"revoked", "web-01", "0a"}, {"not listed", "web-01", "0c"}, {"another machine's", "web-02", "0b"},
		{"ended, and waits", "web-03", "0d"},
	} {
		if code := fleet.ErrorCode(accept(fleet.MachineID(tc.machine), tc.serial, "thief")); code != fleet.Forbidden {
			t.Errorf("%s: code %q", tc.why, code)
		}
	}
	if err := accept("web-01", "0b", "own"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, accept("web-01", "0b", "thief"), fleet.Forbidden)
	if err := accept("web-01", "0c", "own"); err != nil {
		t.Errorf("a later certificate of the same key: %v", err)
	}
}

// With certificates of another CA serial numbers end: those that the machine has
// shown until it was decommissioned never count again.
func TestAccept_OfAnotherCAEndsSerialNumbers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		accept := func(serial string) error {
			return w.plane().Enrolment.Accept(ctx, enrolment.Certificate{Machine: "web-01", Serial: serial, Key: fleet.SHA256([]byte(serial)), OtherCA: true})
		}
		move := func(to fleet.Lifecycle) {
			must[fleet.Machine](t)(w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: to}))
		}
		for _, serial := range []string{"0a", "0b", "0a"} {
			if err := accept(serial); err != nil {
				t.Fatal(err)
			}
		}
		move(fleet.Active)
		move(fleet.Decommissioned)
		wantCode(t, accept("0c"), fleet.Forbidden) // and it is not kept by that
		move(fleet.Pending)
		for range 2 {
			wantCode(t, accept("0a"), fleet.Forbidden)
			wantCode(t, accept("0b"), fleet.Forbidden)
			if err := accept("0c"); err != nil {
				t.Errorf("a certificate that was never shown before: %v", err)
			}
			w.advance(400 * 24 * time.Hour)
			rest(3 * time.Hour) // what is old is deleted
			w.advance(-400 * 24 * time.Hour)
			w.restart()
		}
	})
}

// Doctor and metrics say when machines are near the end of what they can renew,
// also after the rows of old certificates were deleted.
func TestDoctor_NamesMachinesThatCanSoonRenewNoMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.renewal = health.Renewal{Late: 90 * 24 * time.Hour}
		w.restart()
		w.pin()
		ca := &ca{w: w}
		for _, id := range []fleet.MachineID{"gone", "web-01", "web-02"} {
			tok := must[api.Token](t)(w.plane().Enrolment.CreateToken(t.Context(), alice, id, api.TokenRequest{}, api.CAHash(nil)))
			key := fleet.SHA256([]byte(id))
			if _, _, err := w.plane().Enrolment.RedeemToken(t.Context(), tok.Token, enrolment.Keys{Certificate: key}, ca.issue(key)); err != nil {
				t.Fatal(err)
			}
		}
		must[fleet.Machine](t)(w.plane().SetLifecycle(t.Context(), alice, "gone", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		for _, tc := range []struct {
			days    time.Duration // further on
			want    map[health.CertificateState]int
			message string
		}{
			{6, map[health.CertificateState]int{health.CertificateGood: 2}, ""},
			{2, map[health.CertificateState]int{health.CertificateExpired: 2}, ""},
			{80, map[health.CertificateState]int{health.CertificateEnding: 2}, "2 machines (web-01, web-02) must be online again soon"},
			{10, map[health.CertificateState]int{health.CertificateEnded: 2}, "2 machines (web-01, web-02) were away for too long"},
		} {
			w.advance(tc.days * 24 * time.Hour)
			rest(2 * time.Hour) // what is old is deleted
			if m := must[health.Metrics](t)(w.plane().Health.Metrics(t.Context())); !maps.Equal(m.Certificates, tc.want) {
				t.Errorf("metrics: %v, want %v", m.Certificates, tc.want)
			}
			message := ""
			for _, f := range must[[]health.Finding](t)(w.plane().Health.Doctor(t.Context())) {
				if f.Subject == "certificates" {
					message += f.Message
				}
			}
			if tc.message == "" && message != "" || !strings.HasPrefix(message, tc.message) {
				t.Errorf("findings: %s, want %s", message, tc.message)
			}
		}
	})
}
