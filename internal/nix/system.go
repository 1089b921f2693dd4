// SPDX-License-Identifier: MIT

package nix

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// SystemPlatform reads which platform a built system is for, from the file
// `system` that NixOS and nix-darwin put into it. system is any path that leads
// to one.
func SystemPlatform(system string) (fleet.System, error) {
	b, err := os.ReadFile(filepath.Join(system, "system"))
	if err != nil {
		return "", fleet.Errorf(fleet.Invalid, "%s is not a NixOS or nix-darwin system: %w", system, err)
	}
	s := fleet.System(strings.TrimSpace(string(b)))
	if !s.Valid() {
		return "", fleet.Errorf(fleet.Invalid, "%s is built for %q; NixFleet manages %v", system, s, fleet.Systems)
	}
	return s, nil
}

// Fingerprints reads what decides whether a switch to or from a system needs a
// reboot: the targets of its kernel, kernel-modules and initrd links, its
// kernel parameters, and the switch inhibitors of NixOS 26.05 and later
// (nixpkgs PR 473282). system is any path that leads to one, such as
// /run/booted-system. A system without them, such as a container's or a Mac's,
// has empty ones.
func Fingerprints(system string) (fleet.Fingerprints, error) {
	var f fleet.Fingerprints
	link := func(name string) (string, error) {
		p, err := filepath.EvalSymlinks(filepath.Join(system, name))
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return p, err
	}
	kernel, err := link("kernel")
	if err != nil {
		return f, fleet.Errorf(fleet.Invalid, "read kernel of %s: %w", system, err)
	}
	modules, err := link("kernel-modules")
	if err != nil {
		return f, fleet.Errorf(fleet.Invalid, "read kernel modules of %s: %w", system, err)
	}
	if f.Initrd, err = link("initrd"); err != nil {
		return f, fleet.Errorf(fleet.Invalid, "read initrd of %s: %w", system, err)
	}
	if f.Kernel = kernel; modules != "" {
		f.Kernel += " " + modules
	}
	params, err := readSmall(filepath.Join(system, "kernel-params"))
	if err != nil {
		return f, err
	}
	f.Parameters = string(fleet.SHA256(params))
	if len(params) == 0 {
		f.Parameters = ""
	}
	inhibitors, err := readSmall(filepath.Join(system, "switch-inhibitors"))
	if err != nil {
		return f, err
	}
	if len(inhibitors) > 0 {
		if err := json.Unmarshal(inhibitors, &f.Inhibitors); err != nil {
			return f, fleet.Errorf(fleet.Invalid, "read switch inhibitors of %s: %w", system, err)
		}
	}
	return f, nil
}

// readSmall reads a file of at most 64 KiB; one that does not exist is empty.
func readSmall(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fleet.Errorf(fleet.Invalid, "read %s: %w", file, err)
	case len(b) > 64<<10:
		return nil, fleet.Errorf(fleet.TooLarge, "%s has %d bytes; at most 64 KiB are expected", file, len(b))
	}
	return b, nil
}
