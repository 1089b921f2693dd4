// SPDX-License-Identifier: AGPL-3.0-only

package access

import (
	"context"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// errEnded is the cause of a context whose key has ended.
var errEnded = fleet.Errorf(fleet.Unauthenticated, "the API key was revoked, got a new secret, or has expired")

// expiryCheck is how often the clock is asked whether a key has expired, for it
// may be set.
const expiryCheck = 15 * time.Second

// lasting is a use of a key that goes on after its request was authenticated.
type lasting struct{ end context.CancelCauseFunc }

// While returns a context for what goes on after a request was authenticated: a
// stream. It ends with ctx, or, with a cause of code Unauthenticated, when the
// key is revoked, gets a new secret, or expires (E09). The caller calls done in
// the end. The error is that of Authenticate.
func (k *Keys) While(ctx context.Context, bearer string) (_ context.Context, done func(), err error) {
	c, err := k.Authenticate(ctx, bearer)
	if err != nil {
		return nil, nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	use := &lasting{end}
	k.note(c.KeyID, use)
	var wg sync.WaitGroup
	if c.expiresAt > 0 {
		wg.Go(func() { k.endAt(ctx, c.expiresAt, end) })
	}
	done = func() {
		k.forget(c.KeyID, use)
		end(nil)
		wg.Wait()
	}
	// Once more, for a key that ended before the use was noted.
	if _, err := k.Authenticate(ctx, bearer); err != nil {
		done()
		return nil, nil, err
	}
	return ctx, done, nil
}

func (k *Keys) note(id string, use *lasting) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lasting[id] == nil {
		k.lasting[id] = map[*lasting]bool{}
	}
	k.lasting[id][use] = true
}

func (k *Keys) forget(id string, use *lasting) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lasting[id], use)
	if len(k.lasting[id]) == 0 {
		delete(k.lasting, id)
	}
}

// endAt ends a use when its key expires, unless ctx ends before.
func (k *Keys) endAt(ctx context.Context, expiresAt int64, end context.CancelCauseFunc) {
	for {
		left := time.Duration(expiresAt-k.clock.UnixMilli()) * time.Millisecond
		if left <= 0 {
			end(errEnded)
			return
		}
		t := time.NewTimer(min(left, expiryCheck))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// endUses ends the uses of a key that has ended.
func (k *Keys) endUses(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for use := range k.lasting[id] {
		use.end(errEnded)
	}
}
