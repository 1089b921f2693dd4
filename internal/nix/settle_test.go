// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/testbed/theft"
)

// fails fetches from a cache that delivers dep and not the system.
func fails(t *testing.T, f *theft.Theft, fetch Fetch) {
	t.Helper()
	var fe *FetchError
	if err := fetch.Run(t.Context()); !errors.As(err, &fe) {
		t.Fatalf("the fetch ended with %v", err)
	}
	if f.Valid(f.Top) || !f.Valid(f.Dep) {
		t.Fatalf("valid after the failed fetch: system %t, dependency %t", f.Valid(f.Top), f.Valid(f.Dep))
	}
}

// A thief of the cache's key delivers a forged dependency, and lets the fetch fail.
func TestSettle_LeavesNothingOfAFailedFetchThatIsNotAsSigned(t *testing.T) {
	t.Run("the list is known at once", func(t *testing.T) {
		f := theft.New(t)
		fetch, since := fetchOf(f), time.Now()
		var told []Deviation
		fetch.Deviates = func(d []Deviation) { told = append(told, d...) }
		f.Cache.Set(evil.ForgeThenFail)
		fails(t, f, fetch)
		f.Cache.Set(evil.None)
		if n, err := fetch.Settle(t.Context(), f.Entry, since, false); n != 0 || err != nil {
			t.Errorf("%d unknown, %v", n, err)
		}
		if f.Valid(f.Dep) {
			t.Errorf("%s is valid with the hash %s", f.Dep, f.Hash(f.Dep))
		}
		if len(told) != 1 || told[0].Path != f.Dep || told[0].Signed != f.Honest || told[0].NarHash == f.Honest {
			t.Errorf("told %v", told)
		}
	})
	t.Run("no cache gives the list", func(t *testing.T) {
		f := theft.New(t)
		fetch, since := fetchOf(f), time.Now()
		f.Cache.Set(evil.ForgeThenFail)
		fails(t, f, fetch)
		if n, err := fetch.Settle(t.Context(), f.Entry, since, false); n != 1 || err != nil || !f.Valid(f.Dep) {
			t.Errorf("between two tries: %d unknown, %v; valid: %t", n, err, f.Valid(f.Dep))
		}
		if n, err := fetch.Settle(t.Context(), f.Entry, since, true); n != 1 || err != nil || f.Valid(f.Dep) {
			t.Errorf("after the last try: %d unknown, %v; valid: %t", n, err, f.Valid(f.Dep))
		}
	})
}

// What is as signed stays for the next try (A14), and so does what others have built.
func TestSettle_KeepsWhatIsAsSigned(t *testing.T) {
	f := theft.New(t)
	fetch, since := fetchOf(f), time.Now()
	f.Cache.Forged = http.NotFoundHandler() // nothing is forged, and the archives fail...
	f.Cache.Wrap(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/nar/") && f.Valid(f.Dep) { // ...after the first
				http.Error(w, "out of order", http.StatusServiceUnavailable)
				return
			}
			honest.ServeHTTP(w, r)
		})
	})
	fails(t, f, fetch)
	for _, final := range []bool{false, true} {
		if n, err := fetch.Settle(t.Context(), f.Entry, since, final); n != 0 || err != nil || !f.Valid(f.Dep) {
			t.Errorf("final %t: %d unknown, %v; valid: %t", final, n, err, f.Valid(f.Dep))
		}
	}
	f.Remove()
	f.Forge() // built here
	f.Cache.Set(evil.Unavailable)
	if n, err := fetch.Settle(t.Context(), f.Entry, since, true); n != 0 || err != nil || !f.Valid(f.Dep) {
		t.Errorf("what was built here: %d unknown, %v; valid: %t", n, err, f.Valid(f.Dep))
	}
}

// A fetch that is cancelled leaves its root, its dependency, or all of the system.
func TestSettle_EndsTheFetchThatWasCancelled(t *testing.T) {
	f := theft.New(t)
	root := "test-" + f.Top.Base()
	if err := SetRoot(RootsDir, root, f.Top); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = RemoveRoot(RootsDir, root) }) // it should be gone
	fetch, since := fetchOf(f), time.Now()
	fetch.Roots = []string{root}
	f.Cache.Set(evil.Forge)
	if err := fetch.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if reason, err := fetch.CheckFetched(ctx, f.Entry, since); reason != "" || err == nil {
		t.Fatalf("%q, %v", reason, err)
	}
	if _, err := fetch.Settle(ctx, f.Entry, since, true); err == nil {
		t.Error("a settlement that was cancelled has succeeded")
	}
	if _, err := fetch.Settle(t.Context(), f.Entry, since, true); err != nil {
		t.Error(err)
	}
	if f.Valid(f.Top) || f.Valid(f.Dep) {
		t.Errorf("valid: system %t, dependency %t", f.Valid(f.Top), f.Valid(f.Dep))
	}
}

// What a cache slips in beside the signed closure goes too.
func TestSettle_DeletesWhatTheSignedClosureDoesNotName(t *testing.T) {
	f := theft.New(t)
	fetch, since := fetchOf(f), time.Now()
	if err := fetch.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := f.Entry // of a release of the dependency alone
	e.StorePath, e.NarHash = f.Dep, f.Honest
	e.ClosureDigest = fleet.ClosureDigest([]fleet.ClosurePath{{Path: f.Dep, NarHash: f.Honest}})
	var told []fleet.StorePath
	fetch.Deviates = func(d []Deviation) { told = append(told, pathsOf(d)...) }
	if n, err := fetch.Settle(t.Context(), e, since, false); n != 0 || err != nil {
		t.Errorf("%d unknown, %v", n, err)
	}
	if f.Valid(f.Top) || !f.Valid(f.Dep) || !slices.Equal(told, []fleet.StorePath{f.Top}) {
		t.Errorf("valid: system %t, dependency %t; told %v", f.Valid(f.Top), f.Valid(f.Dep), told)
	}
}
