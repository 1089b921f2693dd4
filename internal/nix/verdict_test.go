// SPDX-License-Identifier: MIT

package nix

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
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

// A path that was built here, and whose archive is another by no bad will, is
// replaced by what was signed, if nothing but our roots holds it.
func TestCheckFetched_ReplacesWhatDeviatesByWhatWasSigned(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	root := "test-" + f.Top.Base()
	if err := SetRoot(RootsDir, root, f.Top); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveRoot(RootsDir, root); err != nil {
			t.Error(err)
		}
		f.Remove()
	})
	fetch := fetchOf(f)
	fetch.Roots = []string{root}
	if reason, err := attempt(t, f, fetch, time.Now()); reason != "" || err != nil {
		t.Fatalf("%q, %v", reason, err)
	}
	if h := f.Hash(f.Dep); h != f.Honest || !f.Valid(f.Top) {
		t.Errorf("hash %s, want %s; system valid: %t", h, f.Honest, f.Valid(f.Top))
	}
	if since := RootedSince(f.Top, RootsDir, root); time.Since(since) > time.Minute || time.Since(since) == 0 {
		t.Errorf("the root is of %s", since)
	}
	if p, err := os.Readlink(filepath.Join(RootsDir, root)); err != nil || p != string(f.Top) {
		t.Errorf("the root leads to %q, %v", p, err)
	}
}

// The cache knows the signed list, and its archive is another one.
func TestCheckFetched_ImportsNoArchiveWithAnotherHash(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	f.Cache.Other = string(f.Top)
	f.Cache.Set(evil.SwapNAR)
	reason, err := attempt(t, f, fetchOf(f), time.Now())
	if reason != fleet.ReasonClosureMismatch || Valid(t.Context(), f.Top) || Valid(t.Context(), f.Dep) {
		t.Errorf("%q, %v; valid: %t", reason, err, Valid(t.Context(), f.Dep))
	}
	if err == nil || !strings.Contains(err.Error(), "deleted: "+string(f.Dep)) {
		t.Errorf("%v does not say what is gone", err)
	}
}

// A cache that is out of order now leaves nothing that deviates either; the fetch
// is tried again.
func TestCheckFetched_DeletesWhatDeviatesBeforeItFetches(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	nars, err := filepath.Glob(f.Folder() + "/honest/nar/*")
	if err != nil || len(nars) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, n := range nars {
		if err := os.Rename(n, n+".away"); err != nil {
			t.Fatal(err)
		}
	}
	if reason, err := attempt(t, f, fetchOf(f), time.Now()); reason != "" || err == nil || Valid(t.Context(), f.Dep) {
		t.Errorf("%q, %v; valid: %t", reason, err, Valid(t.Context(), f.Dep))
	}
	for _, n := range nars {
		if err := os.Rename(n+".away", n); err != nil {
			t.Fatal(err)
		}
	}
	if reason, err := attempt(t, f, fetchOf(f), time.Now()); reason != "" || err != nil {
		t.Errorf("%q, %v", reason, err)
	}
}

// allowed are the paths that a person allows to be replaced.
type allowed map[fleet.StorePath]bool

func (a allowed) Allowed(p fleet.StorePath) bool { return a[p] }

func (a allowed) Repaired(p fleet.StorePath) error { delete(a, p); return nil }

func TestCheckFetched_RepairsWhatIsInUseIfAPersonAllowsIt(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	f.Hold(f.Dep)
	fetch := fetchOf(f)
	repairs := allowed{f.Top: true}
	fetch.Repairs = repairs
	if reason, _ := attempt(t, f, fetch, time.Now()); reason != fleet.ReasonClosureDiffers || f.Hash(f.Dep) != f.Forged {
		t.Fatalf("another path is allowed: %q", reason)
	}
	repairs[f.Dep] = true
	f.Cache.Other = string(f.Top)
	f.Cache.Set(evil.SwapNAR)
	if reason, err := attempt(t, f, fetch, time.Now()); reason != fleet.ReasonClosureDiffers || f.Hash(f.Dep) != f.Forged || !repairs[f.Dep] {
		t.Errorf("an archive with another hash: %q, %v", reason, err)
	}
	f.Cache.Set(evil.None)
	if reason, err := attempt(t, f, fetch, time.Now()); reason != "" || err != nil {
		t.Fatalf("%q, %v", reason, err)
	}
	if h := f.Hash(f.Dep); h != f.Honest || repairs[f.Dep] {
		t.Errorf("hash %s, want %s; still allowed: %t", h, f.Honest, repairs[f.Dep])
	}
}

func TestBounded_StopsWhatIsLargerThanTheClosure(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	file, err := os.Create(filepath.Join(t.TempDir(), "nar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := &bounded{file, 4, 0, stop}
	if _, err := b.Write([]byte("four")); err != nil || ctx.Err() != nil {
		t.Errorf("as large: %v", err)
	}
	if _, err := b.Write([]byte("x")); err == nil || ctx.Err() == nil {
		t.Error("larger is not stopped")
	}
}

// After a loss of power, bytes may be missing that Nix has recorded as valid.
func TestCheckFetched_HashesAnewWhatWasFetchedBeforeTheBoot(t *testing.T) {
	f := theft.New(t)
	since := time.Now()
	fetch := fetchOf(f)
	if reason, err := attempt(t, f, fetch, since); reason != "" || err != nil {
		t.Fatalf("%q, %v", reason, err)
	}
	good, err := os.ReadFile(string(f.Dep))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(string(f.Dep), make([]byte, len(good)), 0o444); err != nil {
		t.Fatal(err)
	}
	fetch.Booted = time.Now().Add(time.Hour)
	if reason, err := attempt(t, f, fetch, time.Now().Add(30*time.Minute)); reason != "" || err != nil {
		t.Errorf("what was there long before is not hashed anew: %q, %v", reason, err)
	}
	if reason, err := attempt(t, f, fetch, since); reason != "" || err != nil {
		t.Errorf("%q, %v", reason, err)
	}
	if b, err := os.ReadFile(string(f.Dep)); err != nil || !bytes.Equal(b, good) {
		t.Errorf("the lost bytes are not fetched again: %v", err)
	}
}

// The cache delivers the signed archive, then another one before the scratch folder
// is asked.
func TestCheckFetched_ComparesAgainWhatItReplaced(t *testing.T) {
	f := theft.New(t)
	f.Forge()
	f.Cache.Wrap(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			honest.ServeHTTP(w, r)
			if strings.HasPrefix(r.URL.Path, "/nar/") {
				f.Cache.Set(evil.Forge)
			}
		})
	})
	fetch := fetchOf(f)
	fetch.Caches[0].URL += "?priority=-1"
	reason, err := attempt(t, f, fetch, time.Now())
	if reason != fleet.ReasonClosureMismatch || Valid(t.Context(), f.Top) || Valid(t.Context(), f.Dep) {
		t.Errorf("%q, %v; valid: %t", reason, err, Valid(t.Context(), f.Dep))
	}
	if f.Cache.Hits() == 0 {
		t.Error("nothing was forged")
	}
}
