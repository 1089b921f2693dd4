// SPDX-License-Identifier: MIT

package nix

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed/theft"
)

// Whatever Nix can fetch from, it can be asked of: credentials, settings in the URL
// and formats of hashes are Nix's own. Each machine here has built a path itself.
func TestCheckFetched_AsksACacheAsNixDoes(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *theft.Theft) (url string){
		"plain":          func(_ *testing.T, f *theft.Theft) string { return f.URL },
		"trailing slash": func(_ *testing.T, f *theft.Theft) string { return f.URL + "/" },
		"settings":       func(_ *testing.T, f *theft.Theft) string { return f.URL + "?priority=10" },
		"folder":         func(_ *testing.T, f *theft.Theft) string { return "file://" + f.Folder() + "/honest?trusted=0" },
		"credentials": func(t *testing.T, f *theft.Theft) string {
			f.Cache.Wrap(func(open http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, password, _ := r.BasicAuth(); password != "secret" {
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					open.ServeHTTP(w, r)
				})
			})
			netrc := filepath.Join(t.TempDir(), "netrc")
			writeFile(t, netrc, "machine 127.0.0.1 login pull password secret\n")
			t.Setenv("NIX_CONFIG", os.Getenv("NIX_CONFIG")+"\nnetrc-file = "+netrc)
			return f.URL
		},
		"hashes in base 16": func(t *testing.T, f *theft.Theft) string {
			infos, err := filepath.Glob(f.Folder() + "/honest/*.narinfo")
			if err != nil || len(infos) == 0 {
				t.Fatalf("no narinfo: %v", err)
			}
			for _, file := range infos {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, file, inBase16(t, string(b)))
			}
			return f.URL
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := theft.New(t)
			f.Forge()
			fetch := fetchOf(f)
			fetch.Caches[0].URL = change(t, f)
			if err := fetch.Caches[0].Validate(); err != nil {
				t.Fatal(err)
			}
			if err := fetch.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if reason, err := fetch.CheckFetched(t.Context(), f.Entry, time.Now()); reason != "" || err != nil {
				t.Errorf("Nix fetches it, and it is refused: %q, %v", reason, err)
			}
			if h := f.Hash(f.Dep); h != f.Honest {
				t.Errorf("hash %s, want %s", h, f.Honest)
			}
		})
	}
}

// A closure may be spread over caches, none of which has all of it.
func TestCheckFetched_FindsTheListWhereNoCacheHasAllOfIt(t *testing.T) {
	f := theft.New(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	// The system is in another cache, and what it refers to in the first.
	info := f.Top.Base()[:32] + ".narinfo"
	b, err := os.ReadFile(filepath.Join(f.Folder(), "honest", info))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), "URL: nar/", "URL: ")
	writeFile(t, filepath.Join(other, info), text)
	writeFile(t, filepath.Join(other, "nix-cache-info"), "StoreDir: /nix/store\n")
	nar := regexp.MustCompile(`URL: (\S+)`).FindStringSubmatch(text)[1]
	err = errors.Join(os.Rename(filepath.Join(f.Folder(), "honest/nar", nar), filepath.Join(other, nar)),
		os.Remove(filepath.Join(f.Folder(), "honest", info)))
	if err != nil {
		t.Fatal(err)
	}
	f.Forge()
	fetch := fetchOf(f)
	fetch.Caches = append(fetch.Caches, fleet.Cache{URL: "file://" + other, PublicKeys: []string{f.PublicKey}})
	if reason, err := attempt(t, f, fetch, time.Now()); reason != "" || err != nil || f.Hash(f.Dep) != f.Honest {
		t.Errorf("%q, %v", reason, err)
	}
}

var narHashField = regexp.MustCompile(`NarHash: sha256:([0-9a-z]{52})`)

func inBase16(t *testing.T, info string) string {
	t.Helper()
	return narHashField.ReplaceAllStringFunc(info, func(l string) string {
		h := narHashField.FindStringSubmatch(l)[1]
		res, err := proc.Run(t.Context(), proc.Cmd{Path: "nix-hash", Args: []string{"--type", "sha256", "--to-base16", h}})
		if err != nil {
			t.Fatal(err)
		}
		return "NarHash: sha256:" + strings.TrimSpace(string(res.Stdout))
	})
}
