// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/fleet"
)

// signer is the model of one machine's evidence key.
type signer struct {
	*owner
	drawn    int
	evidence fleet.EvidenceKey   // the row's
	past     []fleet.EvidenceKey // that ended
}

func (s *signer) newEvidence() fleet.EvidenceKey {
	s.drawn++
	return fleet.EvidenceKeyOf(ed25519.NewKeyFromSeed(fmt.Appendf(nil, "%32d", s.drawn)).Public().(ed25519.PublicKey))
}

func (s *signer) enrol(k fleet.EvidenceKey) error {
	ctx := s.tb.Context()
	tok, err := s.w.plane().Enrolment.CreateToken(ctx, alice, "web-01", api.TokenRequest{Replace: true}, api.CAHash(nil))
	if err != nil {
		return err
	}
	key := s.newKey()
	if _, _, err = s.w.plane().Enrolment.RedeemToken(ctx, tok.Token, enrolment.Keys{Certificate: key, Evidence: k}, s.issue(key)); err == nil {
		s.key, s.life = key, fleet.Active
	}
	return err
}

func (s *signer) ended() {
	if s.evidence != "" {
		s.past = append(s.past, s.evidence)
	}
	s.evidence = ""
}

// anyEvidence draws an evidence key: the machine's, one that ended, or a new one.
func (s *signer) anyEvidence(t *rapid.T) fleet.EvidenceKey {
	known := append([]fleet.EvidenceKey{s.newEvidence(), ""}, s.past...)
	if s.evidence != "" {
		known = append(known, s.evidence, s.evidence)
	}
	return known[rapid.IntRange(0, len(known)-1).Draw(t, "evidence key")]
}

func (s *signer) hasEnded(k fleet.EvidenceKey) bool {
	for _, p := range s.past {
		if p == k {
			return true
		}
	}
	return false
}

func (s *signer) actions() map[string]func(*rapid.T) {
	ctx := s.tb.Context()
	return map[string]func(*rapid.T){
		"replace": func(t *rapid.T) {
			k := s.anyEvidence(t)
			err := s.enrol(k)
			good := s.life != fleet.Decommissioned && !s.hasEnded(k) && (k == "" || k != s.evidence)
			if (err == nil) != good {
				t.Fatalf("a machine that is %s and has %q enrols with %q: %v", s.life, s.evidence, k, err)
			}
			if err == nil {
				s.ended()
				s.evidence = k
			}
		},
		"renew": func(t *rapid.T) { // whoever shows which certificate, of now or before
			c := s.issued[rapid.IntRange(0, len(s.issued)-1).Draw(t, "certificate")]
			k := s.anyEvidence(t)
			_, err := s.w.plane().Enrolment.Renew(ctx, c, enrolment.Keys{Certificate: c.Key, Evidence: k}, s.issue(c.Key))
			mine := c.Key == s.key && s.life != fleet.Decommissioned
			if good := mine && (k == "" || k == s.evidence || s.evidence == "" && !s.hasEnded(k)); (err == nil) != good {
				t.Fatalf("a renewal, of the machine's key: %t, whose evidence key is %q, with %q: %v", mine, s.evidence, k, err)
			}
			if err == nil && s.evidence == "" {
				s.evidence = k
			}
		},
		"check in": func(t *rapid.T) {
			c := s.issued[rapid.IntRange(0, len(s.issued)-1).Draw(t, "certificate")]
			k := s.anyEvidence(t)
			err := s.w.plane().Enrolment.TakeEvidence(ctx, c, k)
			if err == nil && k != s.evidence && k != "" {
				if s.evidence != "" || c.Key != s.key || s.life == fleet.Decommissioned || s.hasEnded(k) {
					t.Fatalf("a check-in has changed the evidence key %q to %q", s.evidence, k)
				}
				s.evidence = k
			}
		},
		"lifecycle": func(t *rapid.T) {
			next := map[fleet.Lifecycle]fleet.Lifecycle{fleet.Active: fleet.Decommissioned, fleet.Decommissioned: fleet.Pending, fleet.Pending: fleet.Active}[s.life]
			must[fleet.Machine](s.tb)(s.w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: next}))
			if s.life = next; next == fleet.Decommissioned {
				s.key = ""
				s.ended()
			}
		},
		"clock":   func(t *rapid.T) { s.w.advance(time.Duration(rapid.IntRange(-60, 60).Draw(t, "days")) * 24 * time.Hour) },
		"restart": func(*rapid.T) { s.w.restart() },
		"": func(t *rapid.T) {
			if m := must[fleet.Machine](s.tb)(s.w.plane().Machine(ctx, alice, "web-01")); m.EvidenceKey != s.evidence {
				t.Fatalf("the row has the evidence key %q, want %q", m.EvidenceKey, s.evidence)
			}
		},
	}
}

// The evidence key of a machine survives renewals and restarts, whatever clocks say.
// It changes by an enrolment only, never to one that has ended, and no thief with a
// certificate of before sets it.
func TestEvidenceKey_ChangesByEnrolmentAlone(t *testing.T) {
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
			s := &signer{owner: &owner{ca: &ca{w: w}, tb: t, life: fleet.Active}}
			s.evidence = s.newEvidence()
			if err := s.enrol(s.evidence); err != nil {
				rt.Fatal(err)
			}
			rt.Repeat(s.actions())
		})
		if failed != nil {
			found = true
			panic(failed)
		}
	})
}
