// SPDX-License-Identifier: MIT

package nix

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// cache makes a signed binary cache that holds one path, which is then removed
// from the local store.
type cacheFixture struct {
	dir  string
	key  string // public
	path fleet.StorePath
	all  []fleet.ClosurePath
}

func newCache(t *testing.T, sign bool) cacheFixture {
	t.Helper()
	testbed.RequireNix(t)
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		res, err := proc.Run(t.Context(), proc.Cmd{Path: name, Args: args})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(res.Stdout))
	}
	pub, sec, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	keyFile := filepath.Join(dir, "key")
	writeFile(t, keyFile, "test-1:"+enc(sec))
	content := filepath.Join(dir, "content")
	writeFile(t, content, "content of "+dir)
	path := run("nix-store", "--add-fixed", "sha256", content)
	// A content-addressed path needs no signature: make one that does.
	path = run("nix-build", "--no-out-link", "-E", `derivation { name = "fetched"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo ${`+path+`} > $out" ]; }`)
	f := cacheFixture{dir: filepath.Join(dir, "cache"), key: "test-1:" + enc(pub), path: fleet.StorePath(path)}
	f.all, err = Closure(t.Context(), f.path)
	if err != nil {
		t.Fatal(err)
	}
	url := "file://" + f.dir + "?compression=none"
	if sign {
		url += "&secret-key=" + keyFile
	}
	run("nix", "copy", "--to", url, path)
	run("nix-store", "--delete", path)
	t.Cleanup(func() {
		_, _ = proc.Run(context.WithoutCancel(t.Context()), proc.Cmd{Path: "nix-store", Args: []string{"--delete", path}})
	})
	return f
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f cacheFixture) entry() fleet.Entry {
	e := fleet.Entry{StorePath: f.path, ClosureDigest: fleet.ClosureDigest(f.all)}
	for _, p := range f.all {
		if p.Path == f.path {
			e.NarHash = p.NarHash
		}
	}
	return e
}

func (f cacheFixture) fetch(url string) Fetch {
	return Fetch{Path: f.path, Caches: []fleet.Cache{{URL: url, PublicKeys: []string{f.key}}}, Stall: 5 * time.Second}
}

func reasonOf(t *testing.T, err error) fleet.Reason {
	t.Helper()
	var fe *FetchError
	if err == nil || !errors.As(err, &fe) {
		t.Fatalf("error = %v, want a FetchError", err)
	}
	return fe.Reason
}

func TestFetch_FetchesASignedSystemAndComparesItWithItsEntry(t *testing.T) {
	f := newCache(t, true)
	fetch := f.fetch("file://" + f.dir)
	since := time.Now()
	if n := fetch.Missing(t.Context()); n < 0 {
		t.Errorf("missing = %d, want what nix-store says", n)
	}
	if err := fetch.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := f.entry()
	if reason, err := fetch.CheckFetched(t.Context(), e, since); reason != "" || err != nil {
		t.Errorf("check = %q, %v", reason, err)
	}
	for want, spoil := range map[fleet.Reason]func(*fleet.Entry){
		fleet.ReasonNarHashMismatch: func(e *fleet.Entry) { e.NarHash = fleet.NarHash("sha256:" + strings.Repeat("0", 52)) },
		fleet.ReasonClosureMismatch: func(e *fleet.Entry) { e.ClosureDigest = fleet.SHA256(nil) },
	} {
		if err := fetch.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		bad := e
		spoil(&bad)
		if reason, why := fetch.CheckFetched(t.Context(), bad, since); reason != want || why == nil {
			t.Errorf("reason %q, want %q; it says %v", reason, want, why)
		}
		if Valid(t.Context(), f.path) {
			t.Errorf("%s: the refused system is valid", want)
		}
	}
}

// A14: caches that are unsigned, altered, down or stalled; no path becomes valid.
func TestFetch_SaysWhatIsWrongWithACache(t *testing.T) {
	t.Run("unsigned", func(t *testing.T) {
		f := newCache(t, false)
		if r := reasonOf(t, f.fetch("file://"+f.dir).Run(t.Context())); r != fleet.ReasonBadCacheSig {
			t.Errorf("reason = %s", r)
		}
	})
	t.Run("altered archive", func(t *testing.T) {
		f := newCache(t, true)
		nars, err := filepath.Glob(f.dir + "/nar/*")
		if err != nil || len(nars) == 0 {
			t.Fatalf("no archives: %v", err)
		}
		for _, nar := range nars {
			honest, err := os.ReadFile(nar)
			if err != nil {
				t.Fatal(err)
			}
			altered := bytes.Replace(honest, []byte("content"), []byte("CONTENT"), 1)
			if bytes.Equal(altered, honest) {
				t.Fatalf("%s has nothing to alter", nar)
			}
			writeFile(t, nar, string(altered))
		}
		if r := reasonOf(t, f.fetch("file://"+f.dir).Run(t.Context())); r != fleet.ReasonNarHashMismatch && r != fleet.ReasonFetchFailed {
			t.Errorf("reason = %s", r)
		}
		if _, err := Closure(t.Context(), f.path); err == nil {
			t.Error("the altered path is valid")
		}
	})
	t.Run("down", func(t *testing.T) {
		f := newCache(t, true)
		if r := reasonOf(t, f.fetch("http://127.0.0.1:1").Run(t.Context())); r != fleet.ReasonFetchFailed {
			t.Errorf("reason = %s", r)
		}
	})
	t.Run("stalled", func(t *testing.T) {
		f := newCache(t, true)
		gone := make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/nar/") {
				http.FileServer(http.Dir(f.dir)).ServeHTTP(w, r)
				return
			}
			select { // never an answer
			case <-r.Context().Done():
			case <-gone:
			}
		}))
		defer srv.Close()
		defer close(gone)
		fetch := f.fetch(srv.URL)
		fetch.Stall = 300 * time.Millisecond
		if r := reasonOf(t, fetch.Run(t.Context())); r != fleet.ReasonFetchStalled {
			t.Errorf("reason = %s", r)
		}
	})
}

func TestFetch_EndsWithItsContext(t *testing.T) {
	f := newCache(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var fe *FetchError
	if err := f.fetch("file://" + f.dir).Run(ctx); err == nil || errors.As(err, &fe) && fe.Reason != fleet.ReasonFetchFailed {
		t.Errorf("error = %v", err)
	}
}

func TestSetRoot_ReplacesAndRemoves(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "roots")
	for _, p := range []fleet.StorePath{"/nix/store/00000000000000000000000000000000-a", "/nix/store/00000000000000000000000000000000-b"} {
		if err := SetRoot(dir, "current", p); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(dir, "current")); err != nil || got != string(p) {
			t.Errorf("root = %q, %v; want %s", got, err, p)
		}
	}
	for range 2 {
		if err := RemoveRoot(dir, "current"); err != nil {
			t.Error(err)
		}
	}
}
