// SPDX-License-Identifier: MIT

package nix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Nix copies what git tracks, as it is in the work tree or in a revision; of a
// path:... it copies everything.
func TestSearchSource_FindsWhatNixWouldCopy(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	repo, plain := filepath.Join(dir, "repo"), filepath.Join(dir, "pla in")
	files := map[string]string{
		"flake.nix": "{ }", "committed": "SECRET-1\n", "staged": "x SECRET-2 y SECRET-3", "hosts/flake.nix": "{ }", "hosts/removed": "SECRET-4",
		"untracked": "SECRET-5", "ignored": "SECRET-6", ".gitignore": "ignored\n", "hosts/bin\tary": "\x00\xff SECRET-7\n",
		"big": strings.Repeat("x", maxSearched) + "SECRET-8",
	}
	for name, text := range files {
		for _, root := range []string{repo, plain} {
			put(t, filepath.Join(root, name), text)
		}
	}
	put(t, filepath.Join(plain, ".git-not", "x"), "SECRET-9")
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", repo, "-c", "user.name=ci", "-c", "user.email=ci@example.org"}, args...)
		if res, err := proc.Run(t.Context(), proc.Cmd{Path: "git", Args: args}); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, res.Stderr)
		}
	}
	git("init", "-q", "-b", "main")
	put(t, filepath.Join(repo, ".git", "description"), "SECRET-0")
	git("add", "flake.nix", "committed", "hosts")
	git("commit", "-q", "-m", "one")
	git("rm", "-q", "hosts/removed")
	git("add", "staged", ".gitignore")
	if err := os.Symlink(repo, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(dir, "bare")
	git("clone", "-q", "--bare", repo, clone)
	tree := []Match{{"committed", "SECRET-1"}, {"hosts/bin\tary", "SECRET-7"}, {"staged", "SECRET-2"}, {"staged", "SECRET-3"}}
	head := []Match{{"committed", "SECRET-1"}, {"hosts/bin\tary", "SECRET-7"}, {"hosts/removed", "SECRET-4"}}
	all := []Match{{"committed", "SECRET-1"}, {"hosts/bin\tary", "SECRET-7"}, {"hosts/removed", "SECRET-4"}, {"ignored", "SECRET-6"}, {"staged", "SECRET-2"}, {"staged", "SECRET-3"}, {"untracked", "SECRET-5"}}
	for ref, want := range map[string][]Match{
		repo:                                 tree,
		repo + "/hosts":                      tree,
		repo + "?dir=hosts":                  tree,
		repo + "?ref=main":                   head,
		filepath.Join(dir, "link"):           tree,
		"git+file://" + repo:                 tree,
		"git+file://" + repo + "?ref=main":   head,
		"git+file://" + repo + "?rev=main~0": head,
		"git+file://" + clone:                head,
		plain:                                append([]Match{{".git-not/x", "SECRET-9"}}, all...),
		plain + "/hosts":                     all[1:3:3],
		"path:" + strings.ReplaceAll(plain, " ", "%20"): append([]Match{{".git-not/x", "SECRET-9"}}, all...),
		"path:" + repo + "?dir=hosts":                   append(all[:2:2], all[3:]...), // hosts/removed is gone
		"path:" + filepath.Join(dir, "link"):            append(all[:2:2], all[3:]...),
		filepath.Join(dir, "missing"):                   nil,
	} {
		f := Flake{Ref: ref}
		_, got, err := f.SearchSource(t.Context(), "SECRET-[0-9]")
		if !f.Local() {
			t.Errorf("%s: not local", ref)
		}
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if strings.HasSuffix(ref, "/hosts") && !strings.HasPrefix(ref, repo) { // the folder itself is the flake
			for i := range got {
				got[i].File = "hosts/" + got[i].File
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", ref, d)
		}
	}
	if _, _, err := (Flake{Ref: repo + "?rev=--open-files-in-pager=x"}).SearchSource(t.Context(), "x"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("an option as a revision: got %v, want an invalid error", err)
	}
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A source that is not on this machine is searched once Nix has fetched it.
func TestSearchSource_FetchesWhatIsNotHere(t *testing.T) {
	f := newFlake(t, "")
	dir := strings.TrimPrefix(f.Ref, "path:")
	put(t, filepath.Join(dir, "k"), "SECRET-1")
	archive := filepath.Join(t.TempDir(), "flake.tar.gz")
	if res, err := proc.Run(t.Context(), proc.Cmd{Path: "tar", Args: []string{"-C", filepath.Dir(dir), "-czf", archive, "flake"}}); err != nil {
		t.Fatalf("%v\n%s", err, res.Stderr)
	}
	f.Ref = "file://" + archive
	path, got, err := f.SearchSource(t.Context(), "SECRET-[0-9]")
	if f.Local() {
		t.Error("an archive is local")
	}
	forget(t, map[fleet.MachineID]fleet.StorePath{"source": fleet.StorePath(path)})
	if err != nil || !strings.HasPrefix(path, fleet.StoreDir+"/") {
		t.Fatalf("searched %q: %v", path, err)
	}
	if d := cmp.Diff([]Match{{"k", "SECRET-1"}}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
