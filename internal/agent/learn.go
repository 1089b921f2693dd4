// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// adoptFile is how `nixfleet-agent adopt-floor` tells the agent that runs.
func (w *world) adoptFile() string { return filepath.Join(w.cfg.StateDir, "adopt-floor.json") }

func (w *world) adopted(j states.Journal) states.Input {
	b, err := os.ReadFile(w.adoptFile())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn("the floor to adopt cannot be read", "error", err)
		}
		return nil
	}
	var f trust.Floor
	if err := json.Unmarshal(b, &f); err != nil {
		w.log.Warn("the floor to adopt cannot be read", "error", err)
	}
	if err := os.Remove(w.adoptFile()); err != nil {
		w.log.Warn("the floor to adopt cannot be removed", "error", err)
		return nil
	}
	if err != nil || j.Trust.Floor != nil {
		return nil
	}
	return states.Adopted{Floor: f}
}

// learn gets the trust documents that the agent does not have. One that is
// refused changes nothing, is told, and is looked at again after a while: a
// clock may have been behind.
func (w *world) learn(ctx context.Context, j states.Journal, have fleet.DocumentDigests) states.Input {
	s, known := w.trustState(j), j.Learned
	for _, d := range []struct {
		have  fleet.Digest
		known *fleet.Digest
		get   func(fleet.Digest) (trust.Documents, error)
	}{
		{have.Root, &known.Root, func(fleet.Digest) (d trust.Documents, err error) {
			if s.Root != nil {
				d.Roots, err = w.plane.RootsAfter(ctx, s.Root.Version)
			}
			return d, err
		}},
		{have.Revocations, &known.Revocations, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Revocations, err = w.plane.Document(ctx, h)
			return d, err
		}},
		{have.Timestamp, &known.Timestamp, func(h fleet.Digest) (d trust.Documents, err error) {
			d.Timestamp, err = w.plane.Document(ctx, h)
			return d, err
		}},
	} {
		if d.have == "" || d.have == *d.known || time.Now().Before(w.notBeforeDoc[d.have]) {
			continue
		}
		w.notBeforeDoc[d.have] = time.Now().Add(10 * time.Minute)
		docs, err := d.get(d.have)
		if err != nil {
			w.notBeforeDoc[d.have] = time.Now().Add(10 * time.Second)
			w.log.Warn("a trust document cannot be had", "digest", d.have, "error", err)
			continue
		}
		next, errs := s.Learn(w.Now().WallMs, docs)
		if len(errs) > 0 {
			w.refusal(j, d.have, errs[0])
			continue
		}
		s, *d.known = next, d.have
	}
	if known == j.Learned {
		return nil
	}
	return states.Learned{Trust: s, Documents: known}
}

// refusal tells of a document that was refused outside an attempt.
func (w *world) refusal(j states.Journal, d fleet.Digest, err error) {
	w.log.Warn("a trust document is refused", "digest", d, "error", err)
	if err := w.outbox.Put(w.Seen().Refusal(j, d, trust.ReasonOf(err), err.Error())); err != nil {
		w.log.Warn("a report cannot be queued", "error", err)
	}
}
