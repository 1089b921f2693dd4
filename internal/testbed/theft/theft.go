// SPDX-License-Identifier: MIT

// Package theft has a release for tests whose cache's signing key was stolen: real
// Nix, an honest cache, and what the thief has signed beside it.
//
// It is never linked into a program.
package theft

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
)

// Theft is a release whose cache's key was stolen: the thief has signed another
// archive of a path that the system refers to.
type Theft struct {
	t         *testing.T
	dir       string
	Top, Dep  fleet.StorePath // the system, and what it refers to
	Entry     fleet.Entry
	Honest    fleet.NarHash // of Dep, as it was signed
	Forged    fleet.NarHash
	PublicKey string
	Cache     *evil.Cache // at URL
	URL       string
}

// New makes the release, its honest cache, and the thief's.
func New(t *testing.T) *Theft {
	t.Helper()
	testbed.RequireNix(t)
	pub, sec, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	name := "theft-" + hex.EncodeToString(pub[:8]) // what is fetched is told apart by it
	f := &Theft{t: t, dir: t.TempDir(), PublicKey: name + ":" + enc(pub)}
	key := filepath.Join(f.dir, "key")
	if err := os.WriteFile(key, []byte(name+":"+enc(sec)), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Dep, f.Top = f.build("dep"), f.build("top")
	t.Cleanup(f.Remove)
	var closure []fleet.ClosurePath
	for _, p := range []fleet.StorePath{f.Dep, f.Top} {
		closure = append(closure, fleet.ClosurePath{Path: p, NarHash: f.Hash(p)})
	}
	f.Entry = fleet.Entry{StorePath: f.Top, NarHash: f.Hash(f.Top), ClosureDigest: fleet.ClosureDigest(closure)}
	f.Honest = f.Hash(f.Dep)
	f.run("nix", "copy", "--to", "file://"+f.dir+"/honest?secret-key="+key, string(f.Top))
	f.Remove()
	f.Forge()
	if f.Forged == f.Honest {
		t.Fatal("the forged archive is the honest one")
	}
	f.run("nix", "copy", "--to", "file://"+f.dir+"/forged?secret-key="+key, string(f.Top))
	f.Remove()
	f.Cache = &evil.Cache{Next: http.FileServer(http.Dir(f.dir + "/honest")), Forged: http.FileServer(http.Dir(f.dir + "/forged"))}
	srv := httptest.NewServer(f.Cache)
	t.Cleanup(srv.Close)
	f.URL = srv.URL
	return f
}

// Folder has the two caches, in "honest" and "forged".
func (f *Theft) Folder() string { return f.dir }

// build builds dep, whose archive is another each time, or top, which refers to it.
func (f *Theft) build(what string) fleet.StorePath {
	f.t.Helper()
	return fleet.StorePath(f.run("nix-build", "--no-out-link", "-A", what, "-E", fmt.Sprintf(`
		let sh = name: s: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; seed = %q; PATH = "/usr/bin:/bin"; args = [ "-c" s ]; };
		in rec { dep = sh "dep" "head -c 3000 /dev/urandom | od > $out"; top = sh "top" "echo ${dep} > $out"; }`, f.PublicKey)))
}

// Forge makes another archive of dep valid on this machine, with the system.
func (f *Theft) Forge() {
	f.t.Helper()
	f.build("top")
	f.Forged = f.Hash(f.Dep)
}

func (f *Theft) run(name string, args ...string) string {
	f.t.Helper()
	res, err := proc.Run(f.t.Context(), proc.Cmd{Path: name, Args: args})
	if err != nil {
		f.t.Fatalf("%v\n%s", err, res.Stderr)
	}
	return strings.TrimSpace(string(res.Stdout))
}

// Hash is the hash that the store has recorded of a path.
func (f *Theft) Hash(p fleet.StorePath) fleet.NarHash {
	f.t.Helper()
	return fleet.NarHash(f.run("nix-store", "--query", "--hash", string(p)))
}

// Remove deletes what nothing keeps alive.
func (f *Theft) Remove() {
	for _, p := range []fleet.StorePath{f.Top, f.Dep} {
		_, _ = proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--delete", string(p)}}) // it may not be there
	}
}

// Untouched fails the test if a path is valid with bytes that nobody signed.
func (f *Theft) Untouched() {
	f.t.Helper()
	if f.Valid(f.Dep) && f.Hash(f.Dep) != f.Honest {
		f.t.Errorf("%s is valid with the forged archive", f.Dep)
	}
}

// Hold makes a GC root that is not ours.
func (f *Theft) Hold(p fleet.StorePath) {
	f.t.Helper()
	dir := "/nix/var/nix/gcroots/" + strings.ReplaceAll(f.t.Name(), "/", "-")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(string(p), dir+"/held")); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			f.t.Error(err)
		}
		f.Remove()
	})
}

// Valid reports whether a path is valid on this machine.
func (f *Theft) Valid(p fleet.StorePath) bool {
	_, err := proc.Run(f.t.Context(), proc.Cmd{Path: "nix-store", Args: []string{"--check-validity", string(p)}})
	return err == nil
}
