// SPDX-License-Identifier: MIT

package nix

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// FuzzClosure reads a closure as nix-store prints it, of a cache too: each line is a
// store path with a hash and a size, or nothing counts. What a cache says never
// makes a closure the signed one unless every path and hash is.
func FuzzClosure(f *testing.F) {
	const path = "/nix/store/00000000000000000000000000000000-a"
	hash := "sha256:" + strings.Repeat("0", 52)
	f.Add(path, hash, "120")
	f.Add(path+"\n"+path+"b", hash+"\n"+hash, "1 2")
	f.Add(path+"\x1b", hash, "1e9")
	f.Add("/nix/store/../etc", "sha256:", "-1")
	want := []fleet.ClosurePath{{Path: path, NarHash: fleet.NarHash(hash), NarSize: 120}}
	e := fleet.Entry{StorePath: path, NarHash: fleet.NarHash(hash), ClosureDigest: fleet.ClosureDigest(want), ClosureSize: 120}
	f.Fuzz(func(t *testing.T, paths, hashes, sizes string) {
		got, err := closureOf(path, strings.Fields(paths), strings.Fields(hashes), strings.Fields(sizes))
		if err != nil {
			if got != nil || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("%v with %q", got, err)
			}
			return
		}
		for _, p := range got {
			if !p.Path.Valid() || !p.NarHash.Valid() {
				t.Fatalf("%+v was taken", p)
			}
		}
		if signed(e, got) && (len(got) != 1 || got[0].Path != want[0].Path || got[0].NarHash != want[0].NarHash) {
			t.Fatalf("%+v counts as signed", got)
		}
		d := compare(want, got)
		if d.complete && len(d.deviating) == 0 && !signed(e, got) && len(got) == 1 {
			t.Fatalf("%+v differs in nothing and is not signed", got)
		}
	})
}

// FuzzNixLog reads what Nix prints while it fetches, which quotes the cache: what is
// kept of it is bounded and fit for a report, and the reason is of the closed list.
func FuzzNixLog(f *testing.F) {
	f.Add("@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"\\u001b[31merror: hash mismatch\"}\nplain", 3)
	f.Add("@nix {\"action\":\"result\",\"id\":1,\"fields\":[1,2]}\n@nix {\"action\":\"stop\",\"id\":1}", 100)
	f.Add("@nix {\"action\":\"msg\",\"level\":\"x\"", 1)
	f.Fuzz(func(t *testing.T, text string, times int) {
		w := watch{limit: time.Hour, seen: map[int64]string{}}
		for range min(max(times, 1), 100) {
			for line := range strings.Lines(text) {
				w.line(proc.Stderr, line)
			}
		}
		said := w.text()
		if len(said) > fleet.MaxMessage/2 || len(w.said) > 20 || !utf8.ValidString(said) {
			t.Fatalf("%d lines, %d bytes are kept", len(w.said), len(said))
		}
		if strings.ContainsFunc(said, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
			t.Fatalf("%q came through", said)
		}
		if r := fetchReason(said); !r.Valid() {
			t.Fatalf("reason %q", r)
		}
	})
}

// FuzzLockFile reads the lock file of a flake, which may be anybody's.
func FuzzLockFile(f *testing.F) {
	f.Add([]byte(`{"nodes":{"root":{"inputs":{"nixpkgs":"n"}},"n":{"locked":{"lastModified":1700000000}}},"root":"root"}`))
	f.Add([]byte(`{"nodes":{"root":{"inputs":{"nixpkgs":["a","b"]}}},"root":"root"}`))
	f.Add([]byte(`{"nodes":{"n":{"inputs":{"nixpkgs":"n"},"locked":{"lastModified":-9223372036854775808}}},"root":"n"}`))
	f.Fuzz(func(t *testing.T, locks []byte) {
		date := nixpkgsDate(locks)
		if date == "" {
			return
		}
		if _, err := time.Parse(time.DateOnly, date); err != nil {
			t.Fatalf("%s gives %q", locks, date)
		}
	})
}

// FuzzFlakeRef reads a flake reference, which a project file may name: what is
// searched for secrets is an absolute folder or left to Nix, and a revision is no
// option of git.
func FuzzFlakeRef(f *testing.F) {
	for _, s := range []string{".", "path:/srv/fleet?rev=x", "git+file:///srv/fleet?ref=--output=x", "github:a/b", "path:%zz", "git+file:.?rev=-x#y", "/a?ref=%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		s, err := Flake{Ref: ref}.source()
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid {
				t.Fatalf("%q: %v", ref, err)
			}
			return
		}
		if s.dir != "" && !filepath.IsAbs(s.dir) || strings.HasPrefix(s.rev, "-") {
			t.Fatalf("%q is %+v", ref, s)
		}
		if scheme, _, found := strings.Cut(ref, ":"); found && scheme != "path" && scheme != "git+file" && scheme != "" && s != (source{}) {
			t.Fatalf("%q is local: %+v", ref, s)
		}
	})
}
