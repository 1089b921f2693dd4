// SPDX-License-Identifier: MIT

package nix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
)

// A11: fingerprints hold exactly what needs a reboot when it differs between two
// systems.
func TestFingerprints_AreKernelInitrdParametersAndInhibitors(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"k1", "k2", "modules", "initrd1", "system", "same", "bare"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		_ = os.Remove(filepath.Join(dir, name)) // it may be there: the case changes it
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, system := range []string{"system", "same"} {
		link(dir+"/k1", system+"/kernel")
		link(dir+"/modules", system+"/kernel-modules")
		link(dir+"/initrd1", system+"/initrd")
		writeFile(t, filepath.Join(dir, system, "kernel-params"), "quiet")
		writeFile(t, filepath.Join(dir, system, "switch-inhibitors"), `{"dbus":"1"}`)
		writeFile(t, filepath.Join(dir, system, "etc"), system)
	}
	link(dir+"/system", "booted-system")
	read := func(name string) fleet.Fingerprints {
		t.Helper()
		f, err := Fingerprints(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := read("booted-system") // through a link, as /run/booted-system is one
	want := fleet.Fingerprints{
		Kernel: dir + "/k1 " + dir + "/modules", Initrd: dir + "/initrd1",
		Parameters: string(fleet.SHA256([]byte("quiet"))), Inhibitors: map[string]string{"dbus": "1"},
	}
	if d := cmp.Diff(want, base); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if !base.Equal(read("same")) {
		t.Error("systems that differ in /etc only need a reboot")
	}
	if d := cmp.Diff(fleet.Fingerprints{}, read("bare")); d != "" {
		t.Errorf("a system without a kernel (-want +got):\n%s", d)
	}
	for name, change := range map[string]func(){
		"kernel":     func() { link(dir+"/k2", "same/kernel") },
		"modules":    func() { link(dir+"/k2", "same/kernel-modules") },
		"initrd":     func() { link(dir+"/k2", "same/initrd") },
		"parameters": func() { writeFile(t, dir+"/same/kernel-params", "debug") },
		"inhibitors": func() { writeFile(t, dir+"/same/switch-inhibitors", `{"dbus":"2"}`) },
	} {
		before := read("same")
		change()
		if before.Equal(read("same")) {
			t.Errorf("a change of %s is not noticed", name)
		}
	}
	writeFile(t, dir+"/same/switch-inhibitors", `["dbus"]`)
	if _, err := Fingerprints(dir + "/same"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("inhibitors of another shape: %v", err)
	}
	writeFile(t, dir+"/same/switch-inhibitors", strings.Repeat(" ", 65<<10))
	if _, err := Fingerprints(dir + "/same"); fleet.ErrorCode(err) != fleet.TooLarge {
		t.Errorf("inhibitors without end: %v", err)
	}
}

func TestSystemPlatform_IsOneThatNixFleetManages(t *testing.T) {
	root := t.TempDir()
	const system = fleet.StorePath("/nix/store/00000000000000000000000000000000-system")
	if _, err := SystemPlatform(filepath.Join(root, string(system))); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), "is not a NixOS or nix-darwin system") {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.MkdirAll(root+string(system), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]fleet.System{"x86_64-linux\n": "x86_64-linux", "aarch64-darwin": "aarch64-darwin", "riscv64-linux": "", "": ""} {
		writeFile(t, root+string(system)+"/system", text)
		got, err := SystemPlatform(filepath.Join(root, string(system)))
		if got != want || (want == "") != (fleet.ErrorCode(err) == fleet.Invalid) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestNormalRef_LeavesReferencesAndMakesFoldersAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{".": dir, "hosts": dir + "/hosts", "/srv/x": "/srv/x", "github:owner/repo": "github:owner/repo", "git+ssh://host/x": "git+ssh://host/x"} {
		if got, err := NormalRef(ref); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", ref, got, err, want)
		}
	}
}
