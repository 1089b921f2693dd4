// SPDX-License-Identifier: MIT

package evil_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
)

// A14: what real Nix makes of each thing that an evil cache can do.
func TestCache_IsSeenThroughByNix(t *testing.T) {
	testbed.RequireNix(t)
	wanted, other := buildPath(t, "wanted"), buildPath(t, "other")
	honest, err := testbed.NewCache(t.TempDir(), "test-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := honest.Push(t.Context(), wanted, other); err != nil {
		t.Fatal(err)
	}
	cache := &evil.Cache{Next: honest.Handler(), Other: other}
	server := httptest.NewServer(cache)
	defer server.Close()

	for _, c := range []struct {
		fault evil.Fault
		says  string // a part of what Nix says; empty when it is content
	}{
		{evil.DropSignature, "lacks a valid signature"},
		{evil.SwapNAR, "hash mismatch"},
		{evil.SwapPath, "lacks a valid signature"},
		{evil.AlterNAR, "error"}, // which one depends on the byte
		{evil.TruncateNAR, "unable to download"},
		{evil.Unavailable, "HTTP error 503"},
		{evil.StallNAR, "Timeout was reached"},
		{evil.None, ""},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			cache.Set(c.fault)
			before := cache.Hits()
			res, err := proc.Run(t.Context(), proc.Cmd{Path: "nix", Timeout: 50 * time.Second, Env: append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir()), Args: []string{
				"copy", "--from", server.URL, "--to", "local?root=" + t.TempDir(),
				"--option", "trusted-public-keys", honest.PublicKey(), "--option", "stalled-download-timeout", "1",
				"--option", "download-attempts", "1", "--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0", wanted,
			}})
			if (err == nil) != (c.fault == evil.None) {
				t.Errorf("nix: %v\n%s", err, res.Stderr)
			}
			if !strings.Contains(string(res.Stderr), c.says) {
				t.Errorf("nix says %q, want something with %q", res.Stderr, c.says)
			}
			if (cache.Hits() > before) != (c.fault != evil.None) {
				t.Errorf("%d replies were altered", cache.Hits()-before)
			}
		})
	}
}

// A thief of the cache's key answers the second question differently from the first.
func TestCache_TellsTheTruthOnceItsLieIsDelivered(t *testing.T) {
	serve := func(files map[string]string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if text, ok := files[r.URL.Path]; ok {
				_, _ = w.Write([]byte(text)) // the test reads it
				return
			}
			http.NotFound(w, r)
		})
	}
	cache := &evil.Cache{
		Next:   serve(map[string]string{"/a.narinfo": "honest", "/nar/1.nar": "truth", "/b.narinfo": "same"}),
		Forged: serve(map[string]string{"/a.narinfo": "forged", "/nar/2.nar": "lie", "/b.narinfo": "same"}),
	}
	ask := func(path string) string {
		w := httptest.NewRecorder()
		cache.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return strings.TrimSpace(w.Body.String())
	}
	cache.Set(evil.ForgeOnce)
	for i, want := range [][2]string{
		{"/a.narinfo", "forged"}, {"/b.narinfo", "same"}, {"/a.narinfo", "forged"}, {"/nar/1.nar", "truth"},
		{"/nar/2.nar", "lie"}, {"/a.narinfo", "honest"}, {"/nar/2.nar", "404 page not found"},
	} {
		if got := ask(want[0]); got != want[1] {
			t.Errorf("question %d, %s: %q, want %q", i, want[0], got, want[1])
		}
	}
	if cache.Hits() != 3 {
		t.Errorf("%d replies were altered, want 3", cache.Hits())
	}
	cache.Set(evil.Forge)
	for range 2 {
		if ask("/nar/2.nar") != "lie" || ask("/a.narinfo") != "forged" {
			t.Error("it does not stay with its lie")
		}
	}
}

// buildPath builds something that needs a signature, as what is addressed by its
// content does not. It is large enough not to fit into one packet.
func buildPath(t *testing.T, name string) string {
	t.Helper()
	expr := fmt.Sprintf(`derivation { name = "nixfleet-test-%s"; system = builtins.currentSystem; builder = "/bin/sh";
		args = [ "-c" "PATH=/usr/bin:/bin; head -c 300000 /dev/urandom > $out" ]; }`, name)
	res, err := proc.Run(t.Context(), proc.Cmd{Path: "nix-build", Args: []string{"--no-out-link", "-E", expr}})
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(string(res.Stdout))
	t.Cleanup(func() {
		if _, err := proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--delete", path}}); err != nil {
			t.Error(err)
		}
	})
	return path
}
