// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// host is a nixosConfigurations host whose system is a folder with the file
// `system`, then what a script makes.
func host(name, script string) string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return fmt.Sprintf(`%q.config.system.build.toplevel = derivation {
      name = "system-%s"; system = "%s-linux"; builder = "/bin/sh";
      args = [ "-c" "export PATH=/usr/bin:/bin; mkdir $out && echo %s-linux > $out/system && %s" ];
    };
    `, name, name, arch, arch, script)
}

// newFlake writes a flake and returns it. Nix uses no network.
func newFlake(t *testing.T, outputs string) Flake {
	t.Helper()
	testbed.RequireNix(t)
	flake := filepath.Join(t.TempDir(), "flake")
	if err := os.Mkdir(flake, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(flake, "flake.nix"), "{ outputs = { self }: {\n"+outputs+"\n}; }")
	return Flake{Ref: "path:" + flake}
}

func nixos(hosts ...string) string {
	return "nixosConfigurations = {\n" + strings.Join(hosts, "") + "};"
}

// forget removes what a test built from the local store.
func forget(t *testing.T, paths map[fleet.MachineID]fleet.StorePath) {
	t.Cleanup(func() {
		for _, p := range paths {
			_, _ = proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--delete", string(p)}})
		}
	})
}

func evaluate(t *testing.T, f Flake) (map[fleet.MachineID]string, error) {
	t.Helper()
	hosts, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[fleet.MachineID]bool{}
	drvs, err := f.Evaluate(t.Context(), hosts, func(h FlakeHost, _ time.Duration, _ error) { seen[h.ID] = true })
	if len(seen) != len(hosts) {
		t.Errorf("told of %d hosts, want all %d", len(seen), len(hosts))
	}
	return drvs, err
}

// hostErrors are the failures by host.
func hostErrors(t *testing.T, err error) map[fleet.MachineID]*HostError {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error = %v, want one that joins the hosts' errors", err)
	}
	out := map[fleet.MachineID]*HostError{}
	for _, e := range joined.Unwrap() {
		var he *HostError
		if !errors.As(e, &he) {
			t.Fatalf("error = %v, want a HostError", e)
		}
		out[he.Host] = he
	}
	return out
}

func TestHosts_ListsBothPlatformsByName(t *testing.T) {
	f := newFlake(t, nixos(host("web-02", "true"), host("db-01", "true"))+` darwinConfigurations.mac-01 = throw "not looked into";`)
	got, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]FlakeHost{{"db-01", NixOS}, {"mac-01", Darwin}, {"web-02", NixOS}}, got); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
}

func TestHosts_SaysWhatIsWrongWithAFlake(t *testing.T) {
	for name, tc := range map[string]struct {
		outputs string
		code    fleet.Code
		want    string
	}{
		"no hosts":       {"packages = {};", fleet.NotFound, "declares no nixosConfigurations"},
		"no machine id":  {nixos(host("Web_01", "true")), fleet.Invalid, `"Web_01" is not a machine id`},
		"declared twice": {nixos(host("web-01", "true")) + " darwinConfigurations.web-01 = { };", fleet.Invalid, "declares web-01 twice"},
		"syntax":         {"nixosConfigurations = {", fleet.Invalid, "syntax error"},
		"throws":         {`nixosConfigurations = throw "the cause";`, fleet.Invalid, "the cause"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newFlake(t, tc.outputs).Hosts(t.Context())
			if fleet.ErrorCode(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v (%s), want %s with %q", err, fleet.ErrorCode(err), tc.code, tc.want)
			}
		})
	}
}

// O04: each host that fails is named with its cause, and hides no other host.
func TestEvaluate_ReportsEveryHostsOwnError(t *testing.T) {
	f := newFlake(t, nixos(host("good-01", "true"), host("good-02", "true"),
		`"bad-01".config.system.build.toplevel = throw "the option services.x does not exist";`+"\n",
		`"bad-02".config = { };`+"\n",
		`"bad-03".config.system.build.toplevel.drvPath = "not a derivation";`+"\n"))
	f.Workers = 1
	drvs, err := evaluate(t, f)
	if got := slices.Sorted(maps.Keys(drvs)); !slices.Equal(got, []fleet.MachineID{"good-01", "good-02"}) {
		t.Errorf("evaluated %v", got)
	}
	bad := hostErrors(t, err)
	for id, want := range map[fleet.MachineID]string{"bad-01": "services.x does not exist", "bad-02": "toplevel", "bad-03": "not a derivation"} {
		if bad[id] == nil || !strings.Contains(bad[id].Text, want) || !strings.Contains(err.Error(), "evaluate "+string(id)+": ") {
			t.Errorf("%s: %v, want %q", id, bad[id], want)
		}
	}
	if len(bad) != 3 {
		t.Errorf("%d failures, want 3: %v", len(bad), err)
	}
}

func TestBuild_NamesTheHostAndKeepsTheOthers(t *testing.T) {
	dir := t.TempDir() // makes the systems differ from other tests'
	f := newFlake(t, nixos(host("good-01", "echo "+dir+" > $out/note"), host("bad-01", "echo the cause of "+dir+" >&2; exit 3")))
	drvs, err := evaluate(t, f)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	paths, err := f.Build(t.Context(), drvs, func(l string) { told = append(told, l) })
	forget(t, paths)
	bad := hostErrors(t, err)
	if len(bad) != 1 || bad["bad-01"] == nil || bad["bad-01"].Step != "build" || !strings.Contains(bad["bad-01"].Text, "the cause of "+dir) {
		t.Errorf("error = %v, want bad-01's own error", err)
	}
	if len(paths) != 1 || !paths["good-01"].Valid() {
		t.Errorf("built %v, want good-01", paths)
	}
	if !strings.Contains(strings.Join(told, "\n"), "system-good-01") {
		t.Errorf("progress %q", told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Build(ctx, drvs, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled build: %v", err)
	}
}

// built makes one system that needs another path, and removes both at the end.
func built(t *testing.T) (system, dependency fleet.StorePath) {
	t.Helper()
	note := filepath.Join(t.TempDir(), "note")
	writeFile(t, note, "of "+note)
	f := newFlake(t, nixos(host("web-01", "echo ${./note} > $out/note")))
	if err := os.Rename(note, strings.TrimPrefix(f.Ref, "path:")+"/note"); err != nil {
		t.Fatal(err)
	}
	drvs, err := evaluate(t, f)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := f.Build(t.Context(), drvs, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	forget(t, paths)
	text, err := os.ReadFile(string(paths["web-01"]) + "/note")
	if err != nil {
		t.Fatal(err)
	}
	// A file of a flake is a file in the flake's own store path.
	base, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(text)), fleet.StoreDir+"/"), "/")
	return paths["web-01"], fleet.StorePath(fleet.StoreDir + "/" + base)
}

func TestClosure_HasEveryPathThatASystemNeeds(t *testing.T) {
	system, dependency := built(t)
	got, err := Closure(t.Context(), system)
	if err != nil {
		t.Fatal(err)
	}
	var paths []fleet.StorePath
	for _, p := range got {
		paths = append(paths, p.Path)
		if p.NarSize <= 0 || !p.NarHash.Valid() {
			t.Errorf("%+v", p)
		}
	}
	slices.Sort(paths)
	want := []fleet.StorePath{system, dependency}
	slices.Sort(want)
	if d := cmp.Diff(want, paths); d != "" {
		t.Errorf("closure (-want +got):\n%s", d)
	}
	if _, err := Closure(t.Context(), "/nix/store/00000000000000000000000000000000-none"); err == nil {
		t.Error("a path that is not there has a closure")
	}
	if s, err := SystemPlatform(string(system)); err != nil || s.Darwin() {
		t.Errorf("platform %q, %v", s, err)
	}
}

// The folder of the key has every character that is special in a URL.
func TestPush_SignsEveryPathOfAClosureIntoACache(t *testing.T) {
	system, _ := built(t)
	closure, err := Closure(t.Context(), system)
	if err != nil {
		t.Fatal(err)
	}
	pub, sec, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a & b+c=d%41#e?f")
	if err = os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	writeFile(t, key, "push-1:"+base64.StdEncoding.EncodeToString(sec))
	cache := filepath.Join(t.TempDir(), "cache")
	push := Push{To: "file://" + cache, SecretKeyFile: key}
	for range 2 { // the second finds it all there
		if err = push.Run(t.Context(), []fleet.StorePath{system}, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range closure {
		hash, _, _ := strings.Cut(p.Path.Base(), "-")
		var info []byte
		if info, err = os.ReadFile(filepath.Join(cache, hash+".narinfo")); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(info), "Sig: push-1:") || !strings.Contains(string(info), "Compression: zstd") || !strings.Contains(string(info), string(p.NarHash)) {
			t.Errorf("narinfo of %s:\n%s", p.Path, info)
		}
	}
	// What was signed is what machines accept by the public key, and by no other.
	fetch := Fetch{Path: system, Stall: 5 * time.Second, Caches: []fleet.Cache{{URL: "file://" + cache, PublicKeys: []string{"push-1:" + base64.StdEncoding.EncodeToString(pub)}}}}
	if err = fetch.Run(t.Context()); err != nil {
		t.Errorf("fetch what was pushed: %v", err)
	}
	err = Push{To: "file:///proc/nowhere", SecretKeyFile: key}.Run(t.Context(), []fleet.StorePath{system}, func(string) {})
	if fleet.ErrorCode(err) != fleet.Unavailable || fleet.ErrorHint(err) == "" {
		t.Errorf("no place to push to: %v", err)
	}
	err = Push{To: "file://" + cache + "2", SecretKeyFile: dir + "/missing"}.Run(t.Context(), []fleet.StorePath{system}, func(string) {})
	if err == nil {
		t.Error("pushed without the key that was asked for")
	}
}

func TestDescribe_ReturnsRevisionAndLock(t *testing.T) {
	f := newFlake(t, nixos(host("web-01", "true")))
	s, err := f.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Flake != f.Ref || s.Revision != "" || s.Dirty || !s.LockDigest.Valid() {
		t.Errorf("a plain folder: %+v", s)
	}
	if _, err := (Flake{Ref: f.Ref + "-none"}).Describe(t.Context()); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("no flake: %v", err)
	}
}
