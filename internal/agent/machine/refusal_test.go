// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
)

// enlarge makes the cache say that each archive has so many bytes.
func (s *stolen) enlarge(size int64) {
	field := regexp.MustCompile(`(?m)^NarSize: .*$`)
	s.Cache.Wrap(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, ".narinfo") {
				honest.ServeHTTP(w, r)
				return
			}
			said := httptest.NewRecorder()
			honest.ServeHTTP(said, r)
			w.WriteHeader(said.Code)
			_, _ = w.Write(field.ReplaceAll(said.Body.Bytes(), fmt.Appendf(nil, "NarSize: %d", size)))
		})
	})
}

// A14: a fetch for which something is missing on the machine ends before anything is
// copied, and for the reason that it has.
func TestFetch_EndsBeforeAnythingIsCopied(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *stolen) (root string)
		want  fleet.Reason
	}{
		"it cannot be recorded": {func(s *stolen) string {
			s.m.Agent.StateDir = filepath.Join(s.t.TempDir(), "state")
			if err := os.WriteFile(s.m.Agent.StateDir, nil, 0o600); err != nil {
				s.t.Fatal(err)
			}
			return targetRoot
		}, fleet.ReasonFetchFailed},
		"its root cannot be made": {func(*stolen) string { return "no/such" }, fleet.ReasonDiskFull},
		"there is no room": {func(s *stolen) string {
			free, err := host.Free(fleet.StoreDir)
			if err != nil {
				s.t.Fatal(err)
			}
			s.enlarge(free)
			return targetRoot
		}, fleet.ReasonDiskFull},
		"the cache does not sign": {func(s *stolen) string { s.Cache.Set(evil.DropSignature); return targetRoot }, fleet.ReasonBadCacheSig},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStolen(t)
			a, in := s.m.accept(t.Context(), s.j, s.d)
			if in != nil {
				t.Fatalf("the release is not accepted: %+v", in)
			}
			a.Entry.ClosureSize = math.MaxInt64 / 2 // so that Nix is asked
			root := c.spoil(s)
			got, ok := s.m.fetchClosure(t.Context(), a, root, time.Now()).(states.Failed)
			if !ok || got.Reason != c.want || got.Message == "" {
				t.Errorf("got %+v, want %s", got, c.want)
			}
			if s.Valid(s.Top) || s.Valid(s.Dep) {
				t.Error("something was copied")
			}
		})
	}
}

// A fetch that is not known to be over is not: the next start would judge it again,
// with the system in use.
func TestFetch_IsNotDoneWhileItIsRecorded(t *testing.T) {
	s := newStolen(t)
	file := s.m.dir().Fetching().File
	s.Cache.Wrap(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := os.MkdirAll(filepath.Join(file, "x"), 0o755); err != nil {
				if err := errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "x"), 0o755)); err != nil {
					s.t.Error(err)
				}
			}
			honest.ServeHTTP(w, r)
		})
	})
	if in, ok := s.order().(states.Failed); !ok || in.Reason != fleet.ReasonFetchFailed {
		t.Errorf("got %+v", in)
	}
}

// A14: nothing is switched to of which Nix cannot tell whether it is as signed. The
// fetch stays on record, and is tried again.
func TestFetch_IsNotDoneWithoutAVerdict(t *testing.T) {
	s := newStolen(t)
	program, err := proc.Look("nix-store")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *\" --requisites \"*) echo out of order >&2; exit 1;; esac\nexec %s \"$@\"\n", program)
	if err = os.WriteFile(filepath.Join(dir, "nix-store"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	if in, ok := s.order().(states.Failed); !ok || in.Reason != fleet.ReasonFetchFailed || !in.Again {
		t.Errorf("got %+v", in)
	}
	if _, recorded, err := s.m.dir().Fetching().Read(); !recorded || err != nil {
		t.Errorf("recorded: %t, %v", recorded, err)
	}
}

// E05: what was fetched as it was signed is still no system to switch to, if it could
// not be rolled back by itself.
func TestFetch_IsNotDoneWithASystemWithoutAWatchdog(t *testing.T) {
	s := newStolen(t)
	a, in := s.m.accept(t.Context(), s.j, s.d)
	if in != nil {
		t.Fatalf("the release is not accepted: %+v", in)
	}
	a.Entry.Detach = false
	if got, ok := s.m.fetchClosure(t.Context(), a, targetRoot, time.Now()).(states.Refused); !ok || got.Reason != fleet.ReasonNoWatchdog {
		t.Errorf("got %+v", got)
	}
}

func TestFetchFailed_KeepsTheReasonOfNix(t *testing.T) {
	err := fmt.Errorf("fetch: %w", &nix.FetchError{Reason: fleet.ReasonFetchStalled, Text: "no progress"})
	if in := fetchFailed(err); in != (states.Failed{Reason: fleet.ReasonFetchStalled, Message: "no progress"}) {
		t.Errorf("got %+v", in)
	}
}

// A machine that is held begins no apply, and says so once.
func TestIdle_SaysThatAnOrderIsHeld(t *testing.T) {
	m := testMachine(t, &fakePlane{orders: states.Orders{Apply: &someOrder.Order}})
	dir := filepath.Join(m.Agent.RunDir, "inhibit.d")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "backup"), []byte("restic runs"), 0o644)); err != nil {
		t.Fatal(err)
	}
	j := states.New()
	j, _ = states.Next(j, states.Observed{Generations: m.Generations()}, m.Now())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	in, ok := m.Idle(ctx, j).(states.Held)
	if !ok || in.Why != "held-locally: backup: restic runs" {
		t.Fatalf("got %+v", in)
	}
	if !m.changes(j, in) {
		t.Error("a hold that is new changes nothing")
	}
	if j, _ = states.Next(j, in, m.Now()); m.changes(j, in) {
		t.Error("a hold that is known changes something")
	}
}
