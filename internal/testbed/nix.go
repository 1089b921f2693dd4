// SPDX-License-Identifier: MIT

package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// NixSettings is a nix.conf for Nix programs on the machine and on hosts: nothing is
// asked of anybody on the internet, builds use the machine's own tools, and need no
// users of their own, which a Debian with nothing but nix-bin does not have. All that
// runs Nix here gets it, mostly as NixConfig.
const NixSettings = "sandbox = false\nsubstituters =\nbuild-users-group =\nexperimental-features = nix-command flakes\n"

// NixConfig is the environment variable that has the settings.
const NixConfig = "NIX_CONFIG=" + NixSettings

// nixEnv is for Nix programs that must not ask anybody on the internet.
func nixEnv() []string {
	return append(os.Environ(), NixConfig)
}

// RequireNix gives the test an environment for Nix on this machine: NixSettings, and
// a cache of its own. Where there is no Nix that can write to its store it skips the
// test, or fails it when RequireEnv is set.
func RequireNix(t TB) {
	t.Helper()
	if err := nixWorks(); err != nil {
		unmet(t, err)
	}
	t.Setenv("NIX_CONFIG", NixSettings)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
}

// nixWorks adds a file to the machine's store and removes it.
var nixWorks = sync.OnceValue(func() error {
	for _, p := range []string{"nix", "nix-build", "nix-env", "nix-store"} {
		if _, err := proc.Look(p); err != nil {
			return fmt.Errorf("%w; on Debian: apt-get install nix-bin", err)
		}
	}
	dir, err := os.MkdirTemp("", "nixfleet-testbed-probe-")
	if err != nil {
		return fmt.Errorf("try Nix: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "probe")
	if err = os.WriteFile(file, []byte(dir), 0o600); err != nil {
		return fmt.Errorf("try Nix: %w", err)
	}
	env := append(nixEnv(), "XDG_CACHE_HOME="+dir)
	res, err := proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--add", file}, Env: env})
	if err != nil {
		return fmt.Errorf("write to the Nix store, which root can: %w", err)
	}
	path := strings.TrimSpace(string(res.Stdout))
	if _, err := proc.Run(context.Background(), proc.Cmd{Path: "nix-store", Args: []string{"--delete", path}, Env: env}); err != nil {
		return fmt.Errorf("delete from the Nix store, which root can: %w", err)
	}
	return nil
})
