// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// adopted returns the floor that a person has left for the agent, or the one that
// the fleet's timestamp names, unless the agent knows its floor.
func (m *Machine) adopted(j states.Journal) states.Input {
	f, ok, err := m.dir().Floor().Take()
	if err != nil {
		m.log.Warn("the floor to adopt cannot be read", "error", err)
	}
	if j.Trust.Floor != nil {
		return nil
	}
	if !ok && !m.OnlyAPersonSetsTheFloor {
		f, ok = m.trustState(j).TimestampFloor(m.Now().WallMs)
	}
	if !ok {
		return nil
	}
	return states.Adopted{Floor: f}
}

// maxTried bounds how many documents are remembered as tried.
const maxTried = 1000

// learn fetches the trust documents that the agent does not have. A document that
// is refused changes nothing, is reported, and is tried again after a while: the
// clock may have been behind.
func (m *Machine) learn(ctx context.Context, j states.Journal, have fleet.DocumentDigests) states.Input {
	s, known := m.trustState(j), j.Learned
	for _, d := range []struct {
		have  fleet.Digest
		known *fleet.Digest
		get   func(fleet.Digest) (trust.Documents, error)
	}{
		{have.Root, &known.Root, func(fleet.Digest) (d trust.Documents, err error) {
			if s.Root != nil {
				d.Roots, err = m.Plane.RootsAfter(ctx, s.Root.Version)
			}
			return d, err
		}},
		{have.Revocations, &known.Revocations, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Revocations, err = m.Plane.Document(ctx, h)
			return d, err
		}},
		{have.Timestamp, &known.Timestamp, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Timestamp, err = m.Plane.Document(ctx, h)
			return d, err
		}},
	} {
		if d.have == "" || d.have == *d.known || time.Now().Before(m.idle.documents[d.have]) {
			continue
		}
		if len(m.idle.documents) >= maxTried {
			clear(m.idle.documents) // a control plane that names others each time
		}
		m.idle.documents[d.have] = time.Now().Add(10 * time.Minute)
		docs, err := d.get(d.have)
		if err != nil {
			m.idle.documents[d.have] = time.Now().Add(10 * time.Second)
			m.log.Warn("a trust document cannot be fetched", "digest", d.have, "error", err)
			continue
		}
		next, errs := s.Learn(m.Now().WallMs, docs)
		if len(errs) > 0 {
			m.refusal(j, d.have, errs[0])
			continue
		}
		s, *d.known = next, d.have
	}
	if known == j.Learned {
		return nil
	}
	return states.Learned{Trust: s, Documents: known}
}

// learnGrants fetches the grants that the agent was not shown since it started.
// One that it knows already changes nothing.
func (m *Machine) learnGrants(ctx context.Context, j states.Journal, grants []fleet.Digest) states.Input {
	s := m.trustState(j)
	for _, d := range grants[:min(len(grants), trust.MaxGrants)] {
		if time.Now().Before(m.idle.documents[d]) {
			continue
		}
		m.idle.documents[d] = time.Now().Add(trust.MaxGrantLifeMs * time.Millisecond)
		b, err := m.Plane.Document(ctx, d)
		if err != nil {
			m.idle.documents[d] = time.Now().Add(10 * time.Second)
			m.log.Warn("a grant cannot be fetched", "digest", d, "error", err)
			continue
		}
		next, errs := s.Learn(m.Now().WallMs, trust.Documents{Grants: [][]byte{b}})
		if len(errs) > 0 {
			m.idle.documents[d] = time.Now().Add(10 * time.Minute)
			m.refusal(j, d, errs[0])
			continue
		}
		s = next
	}
	return states.Learned{Trust: s, Documents: j.Learned}
}

// refusal reports a document that was refused outside an attempt.
func (m *Machine) refusal(j states.Journal, d fleet.Digest, err error) {
	m.log.Warn("a trust document is refused", "digest", d, "error", err)
	if err = m.Outbox.Put(m.Seen().Refusal(j, d, trust.ReasonOf(err), err.Error())); err != nil {
		m.log.Warn("a report cannot be queued", "error", err)
	}
}
