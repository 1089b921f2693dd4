// SPDX-License-Identifier: MIT

package nix

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/testbed/theft"
)

func fetchOf(f *theft.Theft) Fetch {
	return Fetch{Path: f.Top, Caches: []fleet.Cache{{URL: f.URL, PublicKeys: []string{f.PublicKey}}}, Stall: 10 * time.Second}
}

// attempt is one try to fetch the release.
func attempt(t *testing.T, f *theft.Theft, fetch Fetch, since time.Time) (fleet.Reason, error) {
	t.Helper()
	if !Valid(t.Context(), f.Top) {
		if err := fetch.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return fetch.CheckFetched(t.Context(), f.Entry, since)
}

// The key of a cache is not that of a release: what it signs beside the truth is
// refused at each try, whatever the cache says when it is asked again.
func TestCheckFetched_NeverTrustsWhatACacheSaysOfBytesThatAreHere(t *testing.T) {
	for _, fault := range []evil.Fault{evil.Forge, evil.ForgeOnce} {
		t.Run(string(fault), func(t *testing.T) {
			f := theft.New(t)
			f.Cache.Set(fault)
			since := time.Now()
			for try := range 2 {
				reason, err := attempt(t, f, fetchOf(f), since)
				t.Logf("try %d: %q, %v", try, reason, err)
				f.Untouched()
				switch {
				case reason == "" && err == nil:
					if h := f.Hash(f.Dep); h != f.Honest {
						t.Errorf("accepted with the hash %s", h)
					}
				case reason != fleet.ReasonClosureMismatch || Valid(t.Context(), f.Top) || Valid(t.Context(), f.Dep):
					t.Errorf("try %d: reason %q; valid: system %t, dependency %t", try, reason, Valid(t.Context(), f.Top), Valid(t.Context(), f.Dep))
				}
				since = time.Now() // what is there now was there before the next try
			}
			if f.Cache.Hits() == 0 {
				t.Error("nothing was forged")
			}
		})
	}
}

// What an interrupted fetch has left is there before the next one begins.
func TestCheckFetched_NeverTrustsWhatWasThereBefore(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	reason, err := attempt(t, f, fetchOf(f), time.Now().Add(time.Hour))
	f.Untouched()
	if reason == "" && err == nil && f.Hash(f.Dep) != f.Honest {
		t.Error("the forged archive is accepted")
	}
}

func TestCheckFetched_LeavesWhatIsInUseAndSaysSo(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	f.Hold(f.Dep)
	reason, err := attempt(t, f, fetchOf(f), time.Now())
	if reason != fleet.ReasonClosureDiffers {
		t.Fatalf("reason = %q, %v", reason, err)
	}
	for _, want := range []string{string(f.Dep), string(f.Honest), string(f.Forged)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if h := f.Hash(f.Dep); h != f.Forged {
		t.Errorf("what is in use was changed: %s", h)
	}
	if Valid(t.Context(), f.Top) {
		t.Error("the refused system is valid")
	}
}

func TestCheckFetched_RemovesTheRootsOfFetchesWhenItRefuses(t *testing.T) {
	f := theft.New(t)
	f.Cache.Set(evil.Forge)
	root := "test-" + f.Top.Base()
	if err := SetRoot(RootsDir, root, f.Top); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = RemoveRoot(RootsDir, root) }) // it should be gone
	fetch := fetchOf(f)
	fetch.Roots = []string{root}
	reason, err := attempt(t, f, fetch, RootedSince(f.Top, RootsDir, root))
	if reason != fleet.ReasonClosureMismatch || Valid(t.Context(), f.Top) || Valid(t.Context(), f.Dep) {
		t.Errorf("%q, %v; valid: %t", reason, err, Valid(t.Context(), f.Top))
	}
}

func TestCompare_FindsWhatDeviates(t *testing.T) {
	path := func(name string) fleet.StorePath {
		return fleet.StorePath("/nix/store/00000000000000000000000000000000-" + name)
	}
	p := func(name, hash string) fleet.ClosurePath {
		return fleet.ClosurePath{Path: path(name), NarHash: fleet.NarHash(hash)}
	}
	have := []fleet.ClosurePath{p("top", "1"), p("a", "2"), p("b", "3")}
	later := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		signed    []fleet.ClosurePath
		deviating []fleet.StorePath
		suspects  []fleet.StorePath
	}{
		"an archive":             {[]fleet.ClosurePath{p("top", "1"), p("a", "x"), p("b", "3")}, []fleet.StorePath{path("a")}, []fleet.StorePath{path("a"), path("top")}},
		"a reference more":       {[]fleet.ClosurePath{p("top", "1"), p("a", "2")}, nil, []fleet.StorePath{path("a"), path("b"), path("top")}},
		"a reference less":       {append(slices.Clone(have), p("c", "4")), nil, []fleet.StorePath{path("a"), path("b"), path("top")}},
		"nobody knows the truth": {nil, nil, []fleet.StorePath{path("a"), path("b"), path("top")}},
	} {
		d := compare(have, c.signed)
		var got []fleet.StorePath
		for _, v := range d.deviating {
			got = append(got, v.Path)
		}
		if !slices.Equal(got, c.deviating) {
			t.Errorf("%s: deviating %v, want %v", name, got, c.deviating)
		}
		// None of the paths exists, so that all count as changed.
		if s := d.suspects(path("top"), later); !slices.Equal(s, c.suspects) {
			t.Errorf("%s: suspects %v, want %v", name, s, c.suspects)
		}
	}
}

func TestOverlay_TakesTheFirstCacheThatHasAPath(t *testing.T) {
	have := []fleet.ClosurePath{{Path: "a", NarHash: "1"}, {Path: "b", NarHash: "2"}, {Path: "c", NarHash: "3"}}
	got := overlay(have, []map[fleet.StorePath]fleet.NarHash{nil, {"a": "x"}, {"a": "y", "b": "z"}})
	if got[0].NarHash != "x" || got[1].NarHash != "z" || got[2].NarHash != "3" || have[0].NarHash != "1" {
		t.Errorf("got %v", got)
	}
}
