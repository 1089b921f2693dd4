// SPDX-License-Identifier: MIT

package documents

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// ignored is the pattern of the secret keys' file names for .gitignore.
const ignored = "*.sec"

// keepOutOfFlake writes an ignore file beside keys that are about to be made in the
// source of a flake or in a git repository, and sets a warning: Nix would copy them
// into its store.
func keepOutOfFlake(t *trustInit) error {
	keys, err := filepath.Abs(filepath.Dir(t.RootKey))
	if err == nil {
		keys, err = filepath.EvalSymlinks(keys)
	}
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "%w", err)
	}
	source, git := nix.FlakeSource(keys)
	if source == "" {
		return nil
	}
	t.IgnoreFile = filepath.Join(filepath.Dir(t.RootKey), ".gitignore")
	t.warning = fmt.Sprintf("the secret keys lie in the flake %s, which is no git repository, so Nix would copy them into its store, and nixfleet release create refuses that. Move them elsewhere, or run git init there: %s then keeps them out", source, t.IgnoreFile)
	if git {
		t.warning = fmt.Sprintf("the secret keys lie in the git repository %s. %s keeps them out of it, and so out of the Nix store; better, move them elsewhere", source, t.IgnoreFile)
	}
	return addIgnored(t.IgnoreFile)
}

// addIgnored makes a .gitignore name the secret keys.
func addIgnored(file string) error {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fleet.Errorf(fleet.Invalid, "%w", err)
	}
	if slices.Contains(strings.Split(string(text), "\n"), ignored) {
		return nil
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = append(text, "# Secret keys: not for the repository, nor for the Nix store.\n"+ignored+"\n"...)
	if err := atomicfile.Write(file, text, 0o644); err != nil {
		return fleet.Errorf(fleet.Invalid, "%w", err)
	}
	return nil
}
