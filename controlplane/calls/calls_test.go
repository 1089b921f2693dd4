// SPDX-License-Identifier: AGPL-3.0-only

package calls

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestCalls_ANewerOneEndsTheOlderOfItsKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		older, doneOlder := c.Begin(t.Context(), "web-01", "checkIn")
		other, doneOther := c.Begin(t.Context(), "web-01", "reports")
		another, doneAnother := c.Begin(t.Context(), "web-02", "checkIn")
		began := make(chan context.Context)
		go func() {
			newer, done := c.Begin(t.Context(), "web-01", "checkIn")
			began <- newer
			done()
		}()
		synctest.Wait()
		if !errors.Is(context.Cause(older), ErrNewer) {
			t.Errorf("the older call goes on: %v", context.Cause(older))
		}
		select {
		case <-began:
			t.Error("the newer call began before the older had ended")
		default:
		}
		doneOlder()
		newer := <-began
		if other.Err() != nil || another.Err() != nil || errors.Is(context.Cause(newer), ErrNewer) {
			t.Errorf("ended: %v %v %v", other.Err(), another.Err(), newer.Err())
		}
		doneOther()
		doneAnother()
		synctest.Wait()
		if len(c.at) != 0 {
			t.Errorf("%d calls are kept after their end", len(c.at))
		}
	})
}
