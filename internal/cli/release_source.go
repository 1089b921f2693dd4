// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// secretKeyPattern is what a secret key file has after its name: 64 bytes in base64.
// The name is left out, since git's search of a long line for one takes very long.
const secretKeyPattern = `:[A-Za-z0-9+/]{86}==`

// refuseSecretKeys returns an error if the flake's source holds a secret key. Nix
// copies the source into its store, where every user of this machine can read it,
// and from where it may get into a cache.
func refuseSecretKeys(ctx context.Context, flake nix.Flake) error {
	dir, found, err := flake.SearchSource(ctx, secretKeyPattern)
	if err != nil {
		return err
	}
	var files []string
	for _, m := range found {
		file := fleet.CleanText(m.File, 200)
		if _, err := trust.ParseSecretKey("key" + m.Text); err == nil && !slices.Contains(files, file) { // its two halves fit
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return nil
	}
	if len(files) > 10 {
		files = append(files[:10], fmt.Sprintf("and %d more", len(files)-10))
	}
	e := fleet.Errorf(fleet.Refused, "the source of the flake, %s, holds secret keys, which everybody on this machine could read in the Nix store: %s", dir, strings.Join(files, ", "))
	if strings.HasPrefix(dir, fleet.StoreDir+"/") {
		return e.WithHint("the source was fetched, so they are there now: replace these keys, and remove them from the flake")
	}
	return e.WithHint("move them out of this folder; in a git repository, git rm --cached FILE and a line in .gitignore are enough. Nothing was copied to the store this time; replace keys that were in an earlier release's source")
}
