// SPDX-License-Identifier: MIT

package evil_test

import (
	"context"
	"fmt"
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
