// SPDX-License-Identifier: AGPL-3.0-only

// Package epoch notices a database that was wiped, or restored from an old
// copy. An epoch is a point of the audit trail, with a code that only the
// holder of the epoch key can make. Agents and operators' clients echo the last
// one that they got.
// One that the trail does not have is proof that the trail is not the one that
// it was: rollouts pause until an operator has looked (E12).
//
// It never repairs anything.
package epoch

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

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Mode says whether the database can be believed.
type Mode string

// The modes of a control plane.
const (
	Normal   Mode = "normal"
	Restored Mode = "restored" // the database is older than what the fleet has seen
)

const (
	metaMode       = "mode"
	metaGeneration = "epoch-generation"
	metaSeen       = "epoch-seen" // highest generation that was echoed
)

// ErrRestored refuses what must not be done with a database that may be an old
// copy.
func ErrRestored() error {
	return fleet.Errorf(fleet.Conflict, "the database is older than what the fleet has seen: rollouts are paused").
		WithHint("nixfleet-control-plane doctor explains what to do")
}

// point is a place in the audit trail. The generation rises when an operator
// accepts a restored database.
type point struct {
	generation int64
	head       fleet.AuditHead
}

// Keeper hands out epochs and reads those that are echoed.
type Keeper struct {
	loop *loop.Loop
	key  []byte

	mu         sync.RWMutex
	mode       Mode
	generation int64
	head       fleet.AuditHead // of token
	token      string
	issued     *lru.Cache[string, bool] // lately, by this process
}

// maxIssued is how many epochs are known without a look at the trail.
const maxIssued = 4096

// Open reads the mode and makes the epoch of the present trail. The key has at
// least 32 secret bytes, which are kept outside the store; else the error's
// code is Invalid.
func Open(ctx context.Context, l *loop.Loop, key []byte) (*Keeper, error) {
	if len(key) < sha256.Size {
		return nil, fleet.Errorf(fleet.Invalid, "the epoch key must have at least 32 bytes")
	}
	k := &Keeper{loop: l, key: key, mode: Normal}
	var mode, generation string
	err := l.Store.Read(ctx, func(r store.Reader) (err error) {
		if mode, err = r.Meta(ctx, metaMode); err != nil {
			return err
		}
		generation, err = r.Meta(ctx, metaGeneration)
		return err
	})
	if err != nil {
		return nil, err
	}
	if generation != "" {
		if k.generation, err = strconv.ParseInt(generation, 10, 64); err != nil {
			return nil, fmt.Errorf("read epoch: %w", err)
		}
	}
	if mode == string(Restored) {
		k.mode = Restored
	}
	k.issued, err = lru.New[string, bool](maxIssued)
	return k, err
}

// Mode says whether the database can be believed.
func (k *Keeper) Mode() Mode {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.mode
}

// Token is the epoch to hand out now: that of all that is committed, so that
// nothing that the receiver may have heard of is lost unnoticed.
func (k *Keeper) Token() string {
	head := k.loop.Store.Committed()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token == "" || head != k.head {
		k.head, k.token = head, k.encode(point{k.generation, head})
		k.issued.Add(k.token, true)
	}
	return k.token
}

// encode writes an epoch with a code that only the holder of the key can make.
func (k *Keeper) encode(e point) string {
	text := fmt.Sprintf("%d.%d.%s", e.generation, e.head.Size, strings.TrimPrefix(string(e.head.Head), "sha256:"))
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte("nixfleet-epoch-v1\n" + text))
	return text + "." + hex.EncodeToString(mac.Sum(nil))
}

// decode reads an echo; false for one that we did not write.
func (k *Keeper) decode(text string) (point, bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 4 {
		return point{}, false
	}
	generation, err1 := strconv.ParseInt(parts[0], 10, 64)
	size, err2 := strconv.ParseInt(parts[1], 10, 64)
	e := point{generation, fleet.AuditHead{Size: size}}
	if size > 0 {
		e.head.Head = fleet.Digest("sha256:" + parts[2])
	}
	return e, err1 == nil && err2 == nil && hmac.Equal([]byte(k.encode(e)), []byte(text))
}

// Check compares an echo with the audit trail, and pauses rollouts if the trail
// does not have it. From is who echoes it, for the log; the code in it counts,
// whoever that is.
func (k *Keeper) Check(ctx context.Context, from, echo string) error {
	k.mu.RLock()
	mode, generation := k.mode, k.generation
	k.mu.RUnlock()
	if echo == "" || len(echo) > api.MaxEpoch || mode == Restored || k.issued.Contains(echo) {
		return nil
	}
	e, ours := k.decode(echo)
	if !ours || e.generation < generation {
		return nil
	}
	if e.generation == generation && e.head.Size > 0 {
		entry, ok, err := k.loop.Store.AuditEntry(ctx, e.head.Size)
		if err != nil || ok && entry.Hash == e.head.Head {
			return err
		}
		// An entry that was removed by retention is older than what is here.
		if cut, err := k.loop.Store.AuditCut(ctx); err != nil || !ok && e.head.Size <= cut.Size {
			return err
		}
	}
	if e.generation == generation && e.head.Size == 0 {
		return nil
	}
	k.loop.Log.Error("the database is older than what the fleet has seen; pausing rollouts", "from", from, "epoch", e.head.Size)
	return k.enterRestored(ctx, e)
}

func (k *Keeper) enterRestored(ctx context.Context, e point) error {
	return k.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		if k.Mode() == Restored {
			return nil
		}
		if err := p.Tx.SetMeta(ctx, metaMode, string(Restored)); err != nil {
			return err
		}
		if err := p.Tx.SetMeta(ctx, metaSeen, strconv.FormatInt(e.generation, 10)); err != nil {
			return err
		}
		if err := pauseAll(ctx, p); err != nil {
			return err
		}
		p.AfterCommit(func() {
			k.mu.Lock()
			k.mode = Restored
			k.mu.Unlock()
			k.loop.Presence.WakeAll()
		})
		return p.Audit(ctx, rollout.EngineActor, fleet.ActionControlPlaneRestored, rollout.EngineActor, map[string]string{"fleetHasSeen": strconv.FormatInt(e.head.Size, 10)})
	})
}

func pauseAll(ctx context.Context, p *loop.Pass) error {
	for _, s := range p.Active() {
		v := rollout.Command{Verb: api.VerbPause, Actor: rollout.EngineActor, Reason: "the database is older than what the fleet has seen"}
		if rollout.Check(*s, v) != nil {
			continue // paused already, reverting or ended
		}
		if err := p.Step(ctx, s, rollout.Event{Command: &v}); err != nil {
			return err
		}
	}
	return nil
}

// Accept ends the restored mode: an operator has looked at the database and
// goes on with it. What agents remember of the one before no longer counts.
// Rollouts stay paused until they are resumed. It does not need the loop to
// run, so that it can be done beside a stopped control plane.
func (k *Keeper) Accept(ctx context.Context, actor string) error {
	if k.Mode() != Restored {
		return fleet.Errorf(fleet.Conflict, "the database was not restored")
	}
	generation := int64(0)
	event := fleet.AuditEvent{At: k.loop.Clock.UnixMilli(), Actor: actor, Action: fleet.ActionControlPlaneAccept, Subject: rollout.EngineActor}
	err := k.loop.Store.WriteAudited(ctx, event, func(tx *store.Tx) error {
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
			tx.SetMeta(ctx, metaMode, string(Normal)),
		)
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.mode, k.generation, k.token = Normal, generation, ""
	k.mu.Unlock()
	k.loop.Presence.WakeAll()
	return nil
}
