// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/testbed/theft"
)

// outOfOrder is what a program of Nix says that broken has broken.
const outOfOrder = "out of order"

// broken makes each call of nix or nix-store whose arguments have a word run a
// script; the other calls are Nix's own.
func broken(t *testing.T, word, script string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nix", "nix-store"} {
		program, err := proc.Look(name)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *\" %s \"*) %s;; esac\nexec %s \"$@\"\n", word, script, program)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

const fail = "echo " + outOfOrder + " >&2; exit 1"

// A14: whatever Nix cannot do for a verdict, there is none: the fetch is tried again,
// and nothing is called forged or as signed.
func TestCheckFetched_GivesNoVerdictIfNixFails(t *testing.T) {
	for name, c := range map[string]struct {
		word string
		held bool // a person has allowed the path in use to be replaced
	}{
		"to tell what is in use":       {"--gc", false},
		"to delete what deviates":      {"--delete", false},
		"to read an archive":           {"dump-path", false},
		"to hash an archive":           {"file", false},
		"to hash what is here":         {"path", false},
		"to repair what is in use":     {"--repair", true},
		"to tell what the closure has": {"--requisites", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := theft.New(t)
			f.Forge()
			fetch, repairs := fetchOf(f), allowed{}
			if c.held {
				f.Hold(f.Dep)
				repairs[f.Dep] = true
			}
			fetch.Repairs = repairs
			if c.word == "path" {
				fetch.Booted = time.Now().Add(time.Hour)
			}
			broken(t, c.word, fail)
			reason, err := fetch.CheckFetched(t.Context(), f.Entry, time.Now().Add(-time.Minute))
			if reason != "" || err == nil || !strings.Contains(err.Error(), outOfOrder) && c.word != "--requisites" {
				t.Errorf("%q, %v", reason, err)
			}
			if repairs[f.Dep] != c.held {
				t.Error("what failed counts as repaired")
			}
		})
	}
	t.Run("to make the system valid", func(t *testing.T) {
		f := theft.New(t)
		if reason, err := fetchOf(f).CheckFetched(t.Context(), f.Entry, time.Now()); reason != "" || err == nil {
			t.Errorf("%q, %v", reason, err)
		}
	})
}

// A refusal whose end fails says so beside its reason: the system may still be there.
func TestCheckFetched_SaysThatARefusedSystemIsStillThere(t *testing.T) {
	refuse := func(t *testing.T, f *theft.Theft, fetch Fetch, want string) {
		t.Helper()
		f.Cache.Set(evil.Unavailable) // so that nobody knows the list
		reason, err := fetch.CheckFetched(t.Context(), f.Entry, time.Now().Add(-time.Minute))
		if reason != fleet.ReasonClosureMismatch || err == nil || !strings.Contains(err.Error(), want) || !f.Valid(f.Top) {
			t.Errorf("%q, %v; valid: %t", reason, err, f.Valid(f.Top))
		}
	}
	t.Run("it cannot be deleted", func(t *testing.T) {
		f := theft.New(t)
		f.Forge()
		broken(t, "--delete", fail)
		refuse(t, f, fetchOf(f), outOfOrder)
	})
	t.Run("its root cannot be removed", func(t *testing.T) {
		f := theft.New(t)
		f.Forge()
		fetch := fetchOf(f)
		fetch.Roots = []string{"test-" + f.Top.Base()}
		dir := filepath.Join(RootsDir, fetch.Roots[0])
		if err := os.MkdirAll(filepath.Join(dir, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		refuse(t, f, fetch, "remove GC root")
	})
}

// A fetch is settled only when all of it is.
func TestSettle_FailsIfNixFails(t *testing.T) {
	for name, c := range map[string]struct {
		word, script string
		unknown      bool // no cache gives the list
	}{
		"to tell what was fetched":     {"path-info", fail, false},
		"to tell the recorded hashes":  {"--hash", "exit 0", false},
		"to hash what is here":         {"path", fail, false},
		"to delete what deviates":      {"--delete", fail, false},
		"to delete what nobody knows":  {"--delete", fail, true},
		"to tell what may be deleted":  {"--gc", fail, true},
		"to tell what is there at all": {"--print-invalid", fail, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := theft.New(t)
			fetch, since := fetchOf(f), time.Now()
			fetch.Booted = time.Now().Add(time.Hour)
			f.Cache.Set(evil.ForgeThenFail)
			fails(t, f, fetch)
			if !c.unknown {
				f.Cache.Set(evil.None)
			}
			broken(t, c.word, c.script)
			if _, err := fetch.Settle(t.Context(), f.Entry, since, true); err == nil || !f.Valid(f.Dep) {
				t.Errorf("error %v; valid: %t", err, f.Valid(f.Dep))
			}
		})
	}
	t.Run("and its context ends while a cache is asked", func(t *testing.T) {
		f := theft.New(t)
		fetch, since := fetchOf(f), time.Now()
		f.Cache.Set(evil.ForgeThenFail)
		fails(t, f, fetch)
		ctx, cancel := context.WithCancel(t.Context())
		f.Cache.Wrap(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				cancel()
				http.Error(w, outOfOrder, http.StatusServiceUnavailable)
			})
		})
		f.Cache.Set(evil.None)
		if _, err := fetch.Settle(ctx, f.Entry, since, false); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// What others delete while a fetch is settled does not keep it from being settled,
// unless they go on.
func TestSettle_GoesOnWhenAnotherPathIsDeleted(t *testing.T) {
	for name, c := range map[string]struct {
		then string
		ends bool
	}{
		"once":       {": >$dir/path", true},
		"for ever":   {"echo x >>$dir/file; nix-store --add $dir/file >$dir/path", false},
		"four times": {"echo x >>$dir/file; : >$dir/path; [ $(wc -l <$dir/file) -gt 3 ] || nix-store --add $dir/file >$dir/path", true},
	} {
		t.Run(name, func(t *testing.T) {
			f, dir := theft.New(t), t.TempDir()
			fetch, since := fetchOf(f), time.Now()
			f.Cache.Set(evil.ForgeThenFail)
			fails(t, f, fetch)
			f.Cache.Set(evil.None)
			writeFile(t, filepath.Join(dir, "file"), "")
			broken(t, "path-info", "dir="+dir+"; [ ! -s $dir/path ] || nix-store --delete $(cat $dir/path) >&2; "+c.then)
			res, err := proc.Run(t.Context(), proc.Cmd{Path: "nix-store", Args: []string{"--add", filepath.Join(dir, "file")}})
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "path"), string(res.Stdout))
			t.Cleanup(func() {
				if left, gone := os.ReadFile(filepath.Join(dir, "path")); gone == nil && len(left) > 0 {
					_, _ = proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--delete", strings.TrimSpace(string(left))}}) // it may be gone
				}
			})
			if _, err = fetch.Settle(t.Context(), f.Entry, since, true); (err == nil) != c.ends || f.Valid(f.Dep) == c.ends {
				t.Errorf("error %v; valid: %t", err, f.Valid(f.Dep))
			}
		})
	}
}

// What fails for another reason is not tried again at once.
func TestSettle_AsksOnceIfNothingIsDeleted(t *testing.T) {
	f := theft.New(t)
	fetch, since := fetchOf(f), time.Now()
	f.Cache.Set(evil.ForgeThenFail)
	fails(t, f, fetch)
	asked := filepath.Join(t.TempDir(), "asked")
	broken(t, "path-info", "echo x >>"+asked+"; "+fail)
	if _, err := fetch.Settle(t.Context(), f.Entry, since, true); err == nil {
		t.Error("it is settled")
	}
	if text, err := os.ReadFile(asked); err != nil || len(strings.Fields(string(text))) != 1 {
		t.Errorf("asked %q, %v", text, err)
	}
}

// An idle agent whose fetch brought nothing asks nobody for its list.
func TestSettle_AsksNoCacheIfNothingWasFetched(t *testing.T) {
	f := theft.New(t)
	f.Cache.Set(evil.Unavailable) // which counts
	if n, err := fetchOf(f).Settle(t.Context(), f.Entry, time.Now(), true); n != 0 || err != nil || f.Cache.Hits() != 0 {
		t.Errorf("%d unknown, %v; asked %d times", n, err, f.Cache.Hits())
	}
}

func TestRehash_FailsIfItCannotLook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "no folder")
	have := []fleet.ClosurePath{{Path: fleet.StorePath(file + "/x")}}
	if err := (Fetch{}).rehash(t.Context(), have, time.Now()); err == nil {
		t.Error("what cannot be looked at counts as hashed")
	}
	have[0].Path = fleet.StorePath(file + "-none")
	if err := (Fetch{}).rehash(t.Context(), have, time.Now()); err != nil || have[0].NarHash != "" {
		t.Errorf("what is gone: %v, %q", err, have[0].NarHash)
	}
}

func TestClosureOf_RefusesWhatIsNoClosure(t *testing.T) {
	const a, b = "/nix/store/00000000000000000000000000000000-a", "/nix/store/00000000000000000000000000000000-b"
	hash := "sha256:" + strings.Repeat("0", 52)
	for name, c := range map[string]struct {
		paths, hashes, sizes string
		good                 bool
	}{
		"two paths":         {a + " " + b, hash + " " + hash, "1 2", true},
		"a hash less":       {a + " " + b, hash, "1 2", false},
		"a hash more":       {a, hash + " " + hash, "1", false},
		"a size less":       {a + " " + b, hash + " " + hash, "1", false},
		"a size more":       {a, hash, "1 2", false},
		"a size in words":   {a, hash, "one", false},
		"a path outside":    {"/etc/passwd", hash, "1", false},
		"a hash of nothing": {a, "sha256:", "1", false},
	} {
		got, err := closureOf(a, strings.Fields(c.paths), strings.Fields(c.hashes), strings.Fields(c.sizes))
		if (err == nil) != c.good || c.good && len(got) != 2 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	system, _ := built(t)
	broken(t, "--size", "exit 0")
	if got, err := Closure(t.Context(), system); err == nil {
		t.Errorf("a closure without sizes: %v", got)
	}
	broken(t, "--requisites", "exit 0")
	if got, err := Closure(t.Context(), a); fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("a closure without paths: %v, %v", got, err)
	}
}

// A flake is read as Nix prints it, or not at all.
func TestFlake_SaysWhatNixCouldNotDo(t *testing.T) {
	web := map[fleet.MachineID]string{"web-01": "/nix/store/00000000000000000000000000000000-web-01.drv"}
	hosts := func(f Flake) error { _, err := f.Hosts(t.Context()); return err }
	build := func(f Flake) error { _, err := f.Build(t.Context(), web, func(string) {}); return err }
	describe := func(f Flake) error { _, err := f.Describe(t.Context()); return err }
	for name, c := range map[string]struct {
		word, script string
		do           func(Flake) error
		code         fleet.Code
	}{
		"names that are no JSON":   {"builtins.attrNames", "exit 0", hosts, fleet.Internal},
		"a build without a path":   {"--realise", "exit 0", build, fleet.Internal},
		"a build of what is none":  {"--realise", "echo /etc/passwd; exit 0", build, fleet.Invalid},
		"metadata that is no JSON": {"metadata", "exit 0", describe, fleet.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlake(t, "")
			broken(t, c.word, c.script)
			if err := c.do(f); fleet.ErrorCode(err) != c.code {
				t.Errorf("%v, want the code %s", err, c.code)
			}
		})
	}
	t.Run("there is no Nix", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if err := hosts(Flake{Ref: "path:" + t.TempDir()}); fleet.ErrorCode(err) != fleet.Unavailable || !strings.Contains(fleet.ErrorHint(err), "install Nix") {
			t.Errorf("%v, hint %q", err, fleet.ErrorHint(err))
		}
	})
}

// A cache that Nix cannot sign for while it writes gets nothing unsigned.
func TestPush_SendsNothingThatItCannotSign(t *testing.T) {
	newFlake(t, "")
	push := Push{To: "ssh://127.0.0.1:1", SecretKeyFile: filepath.Join(t.TempDir(), "missing")}
	err := push.Run(t.Context(), []fleet.StorePath{"/nix/store/00000000000000000000000000000000-a"}, func(string) {})
	if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), "sign 1 closures") {
		t.Errorf("got %v", err)
	}
}

// A search for secrets that could not be made has not found that there are none.
func TestSearchSource_FailsIfItCannotSearch(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "flake.nix"), "{ }")
	git := filepath.Join(t.TempDir(), "repo")
	if res, err := proc.Run(t.Context(), proc.Cmd{Path: "git", Args: []string{"init", "-q", git}}); err != nil {
		t.Fatalf("%v\n%s", err, res.Stderr)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx          context.Context
		ref, pattern string
		want         string
	}{
		"an option as a revision":      {t.Context(), git + "?rev=--output=x", "x", "is not a revision"},
		"settings that are none":       {t.Context(), "path:" + dir + "?rev=%zz", "x", "invalid URL escape"},
		"a pattern that is none":       {t.Context(), "path:" + dir, "(", "search the source of flake"},
		"a pattern that is none, git":  {t.Context(), git, "(", "search the source of flake"},
		"the context is over":          {over, "path:" + dir, "x", context.Canceled.Error()},
		"a source that is not fetched": {t.Context(), "file://" + dir + "/none.tar.gz", "x", "read flake"},
	} {
		_, found, err := Flake{Ref: c.ref}.SearchSource(c.ctx, c.pattern)
		if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, found, err, c.want)
		}
	}
	t.Run("there is no git", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, _, err := (Flake{Ref: git}).SearchSource(t.Context(), "x"); fleet.ErrorCode(err) != fleet.Unavailable || fleet.ErrorHint(err) == "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the folder is gone", func(t *testing.T) {
		gone := t.TempDir()
		t.Chdir(gone)
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if s, err := (Flake{Ref: "path:x"}).source(); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("got %+v, %v", s, err)
		}
	})
}

// A11: a system whose fingerprints cannot be read has no fingerprints, rather than
// ones that differ in nothing.
func TestFingerprints_FailIfTheyCannotBeRead(t *testing.T) {
	for _, name := range []string{"kernel", "kernel-modules", "initrd", "kernel-params", "switch-inhibitors"} {
		dir := t.TempDir()
		if err := os.Symlink(name, filepath.Join(dir, name)); err != nil { // to itself
			t.Fatal(err)
		}
		if got, err := Fingerprints(dir); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "kernel-params"), strings.Repeat("x", 64<<10))
	if _, err := Fingerprints(dir); err != nil {
		t.Errorf("as large as may be: %v", err)
	}
	writeFile(t, filepath.Join(dir, "kernel-params"), strings.Repeat("x", 64<<10+1))
	if _, err := Fingerprints(dir); fleet.ErrorCode(err) != fleet.TooLarge {
		t.Errorf("parameters without end: %v", err)
	}
}

// How much a fetch needs is what Nix says, in the units that it has.
func TestMissing_IsWhatNixSays(t *testing.T) {
	newFlake(t, "")
	for text, want := range map[string]int64{
		"(0.00 MiB download, 1.50 MiB unpacked)": 3 << 19, "(1 B download, 2.0 KiB unpacked)": 2 << 10,
		"(0.1 GiB download, 3.0 GiB unpacked)": 3 << 30, "(0.1 TiB download, 2.0 TiB unpacked)": 2 << 40,
		"nothing to do": -1, "(0 download, 1.2.3 MiB unpacked)": -1,
	} {
		broken(t, "--dry-run", "echo '"+text+"' >&2; exit 0")
		if got := (Fetch{Path: "/nix/store/00000000000000000000000000000000-a"}).Missing(t.Context()); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
