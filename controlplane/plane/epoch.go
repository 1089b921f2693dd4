// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// mode says whether the database can be believed.
type mode string

const (
	modeNormal   mode = "normal"
	modeRestored mode = "restored"
)

const (
	metaMode       = "mode"
	metaGeneration = "epoch-generation"
	metaSeen       = "epoch-seen" // highest generation that an agent echoed
)

func errRestored() error {
	return fleet.Errorf(fleet.Conflict, "the database is older than what the fleet has seen: rollouts are paused").
		WithHint("nixfleet-control-plane doctor explains what to do")
}

// epoch is a point of the audit trail: agents carry it along, and so notice
// for us when the trail is not the one that it was.
type epoch struct {
	generation int64
	head       fleet.AuditHead
}

// epochKeeper hands out epochs and reads those that come back.
type epochKeeper struct {
	key []byte

	mu         sync.RWMutex
	state      mode
	generation int64 // goes up when an operator accepts a restored database
	now        string
}

func (k *epochKeeper) mode() mode {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.state
}

func (k *epochKeeper) token() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.now
}

// loadEpoch reads the mode and makes the epoch of the present trail.
func (p *Plane) loadEpoch(ctx context.Context) error {
	var state, generation string
	var head fleet.AuditHead
	err := p.st.Read(ctx, func(r store.Reader) (err error) {
		if state, err = r.Meta(ctx, metaMode); err != nil {
			return err
		}
		if generation, err = r.Meta(ctx, metaGeneration); err != nil {
			return err
		}
		head, err = r.AuditHead(ctx)
		return err
	})
	if err != nil {
		return err
	}
	n := int64(0)
	if generation != "" {
		if n, err = strconv.ParseInt(generation, 10, 64); err != nil {
			return fmt.Errorf("read epoch: %w", err)
		}
	}
	k := &p.epoch
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.generation, k.state = p.conf.EpochKey, n, modeNormal
	if state == string(modeRestored) {
		k.state = modeRestored
	}
	k.now = k.encode(epoch{n, head})
	return nil
}

// encode writes an epoch with a code that only the holder of the key can make.
func (k *epochKeeper) encode(e epoch) string {
	text := fmt.Sprintf("%d.%d.%s", e.generation, e.head.Size, strings.TrimPrefix(string(e.head.Head), "sha256:"))
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte("nixfleet-epoch-v1\n" + text))
	return text + "." + hex.EncodeToString(mac.Sum(nil))
}

// decode reads an echo; false for one that we did not write.
func (k *epochKeeper) decode(text string) (epoch, bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 4 {
		return epoch{}, false
	}
	generation, err1 := strconv.ParseInt(parts[0], 10, 64)
	size, err2 := strconv.ParseInt(parts[1], 10, 64)
	e := epoch{generation, fleet.AuditHead{Size: size}}
	if size > 0 {
		e.head.Head = fleet.Digest("sha256:" + parts[2])
	}
	return e, err1 == nil && err2 == nil && hmac.Equal([]byte(k.encode(e)), []byte(text))
}

// checkEpoch compares an agent's echo with the audit trail. An echo of ours
// that the trail knows nothing of means that the database was wiped or
// restored from an old copy: rollouts pause until an operator has looked (E12).
func (p *Plane) checkEpoch(ctx context.Context, machine fleet.MachineID, echo string) error {
	k := &p.epoch
	k.mu.RLock()
	state, generation, now := k.state, k.generation, k.now
	k.mu.RUnlock()
	if echo == "" || echo == now || state == modeRestored {
		return nil
	}
	e, ours := k.decode(echo)
	if !ours || e.generation < generation {
		return nil
	}
	if e.generation == generation && e.head.Size > 0 {
		entry, ok, err := p.st.AuditEntry(ctx, e.head.Size)
		if err != nil || ok && entry.Hash == e.head.Head {
			return err
		}
	}
	if e.generation == generation && e.head.Size == 0 {
		return nil
	}
	p.log.Error("the database is older than what the fleet has seen; pausing rollouts", "machine", machine, "epoch", e.head.Size)
	return p.enterRestored(ctx, e)
}

func (p *Plane) enterRestored(ctx context.Context, e epoch) error {
	return p.act(ctx, func(ctx context.Context, t *pass) error {
		if p.epoch.mode() == modeRestored {
			return nil
		}
		if err := t.tx.SetMeta(ctx, metaMode, string(modeRestored)); err != nil {
			return err
		}
		if err := t.tx.SetMeta(ctx, metaSeen, strconv.FormatInt(e.generation, 10)); err != nil {
			return err
		}
		if err := t.pauseAll(ctx); err != nil {
			return err
		}
		t.after = append(t.after, func() { p.setEpoch(modeRestored, -1); p.presence.wakeAll() })
		return t.audit(ctx, engineActor, fleet.ActionControlPlaneRestored, engineActor, map[string]string{"fleetHasSeen": strconv.FormatInt(e.head.Size, 10)})
	})
}

func (t *pass) pauseAll(ctx context.Context) error {
	for _, s := range t.p.active {
		v := rollout.Verb{Verb: api.VerbPause, Actor: engineActor, Reason: "the database is older than what the fleet has seen"}
		if rollout.Check(*s, v) != nil {
			continue // paused already, or on its way out
		}
		if err := t.step(ctx, s, rollout.Event{Verb: &v}); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) setEpoch(m mode, generation int64) {
	p.epoch.mu.Lock()
	defer p.epoch.mu.Unlock()
	p.epoch.state = m
	if generation >= 0 {
		p.epoch.generation = generation
	}
}

// refreshEpoch makes the epoch of the trail as it is now. It changes no etag,
// so agents learn it with their next orders.
func (p *Plane) refreshEpoch(ctx context.Context) error {
	head, err := p.st.AuditHead(ctx)
	if err != nil {
		return err
	}
	p.epoch.mu.Lock()
	defer p.epoch.mu.Unlock()
	p.epoch.now = p.epoch.encode(epoch{p.epoch.generation, head})
	return nil
}

// AcceptRestored ends the restored mode: an operator has looked at the
// database and goes on with it. What agents remember of the one before no
// longer counts. Rollouts stay paused until they are resumed. It needs no Run,
// so that it can be done beside a stopped control plane.
func (p *Plane) AcceptRestored(ctx context.Context, actor string) error {
	if p.epoch.mode() != modeRestored {
		return fleet.Errorf(fleet.Conflict, "the database was not restored")
	}
	generation := int64(0)
	event := fleet.AuditEvent{Actor: actor, Action: fleet.ActionControlPlaneAccept, Subject: engineActor}
	err := p.write(ctx, event, func(tx *store.Tx) error {
		seen, err := tx.Meta(ctx, metaSeen)
		if err != nil {
			return err
		}
		if generation, err = strconv.ParseInt(seen, 10, 64); err != nil {
			return fmt.Errorf("read epoch: %w", err)
		}
		generation++
		return errors.Join(
			tx.SetMeta(ctx, metaGeneration, strconv.FormatInt(generation, 10)),
			tx.SetMeta(ctx, metaMode, string(modeNormal)),
		)
	})
	if err != nil {
		return err
	}
	p.setEpoch(modeNormal, generation)
	p.presence.wakeAll()
	return p.refreshEpoch(ctx)
}
