// SPDX-License-Identifier: MIT

package documents

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// trustInit is what `trust init` made.
type trustInit struct {
	FleetID    string       `json:"fleetId"`
	Root       string       `json:"root"` // the root document's file
	RootDigest fleet.Digest `json:"rootDigest"`
	RootKey    string       `json:"rootKey"`
	ReleaseKey string       `json:"releaseKey"`
	Expires    int64        `json:"expires"`
	// IgnoreFile is the .gitignore beside the keys, if they lie in a flake's source.
	IgnoreFile string `json:"ignoreFile,omitempty"`

	warning string
}

func (h Host) initCmd() *cobra.Command {
	var fleetID string
	var years int
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make the fleet's root and release keys and its first root document",
		Long: `Make the fleet's root and release keys and its first root document in DIR.

root.json goes into every machine's configuration (services.nixfleet-agent.trust.rootFile) and
to the control plane. keys/release.sec signs releases: give it to the people who deploy.
keys/root.sec changes who may sign: keep it offline, and a copy of it in a safe. nixfleet trust
rotate adds more people's keys.

Nix copies the source of a flake into its store, where every user can read it. If DIR is in a git
repository or below a flake.nix, keys gets a .gitignore, and this command warns; nixfleet release
create refuses a source that holds a secret key.`,
		Example: "  nixfleet trust init --fleet example.org trust",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, argv []string) error {
			if !fleet.ValidFleetID(fleetID) {
				return command.Usagef("--fleet %q must be 1 to 63 letters, digits, '-', '_' or '.'", fleetID)
			}
			if years < 1 || years > 50 {
				return command.Usagef("--years %d must be between 1 and 50", years)
			}
			out, err := initTrust(argv[0], fleetID, time.Now().AddDate(years, 0, 0))
			if err != nil {
				return err
			}
			if out.warning != "" {
				h.Say("warning: %s", out.warning)
			}
			return h.Print(out, func(w io.Writer) {
				fmt.Fprintf(w, "made the keys of fleet %s:\n", out.FleetID)
				fmt.Fprintf(w, "  %s  for every machine's configuration, and for the control plane\n", out.Root)
				fmt.Fprintf(w, "  %s  signs releases; for the people who deploy\n", out.ReleaseKey)
				fmt.Fprintf(w, "  %s  signs changes to the keys; keep it offline\n", out.RootKey)
			})
		},
	}
	c.Flags().StringVar(&fleetID, "fleet", "", "the fleet's name; it cannot be changed later")
	c.Flags().IntVar(&years, "years", 10, "years until the root document expires")
	return c
}

// initTrust writes all files or none.
func initTrust(dir, fleetID string, expires time.Time) (trustInit, error) {
	out := trustInit{
		FleetID: fleetID, Root: filepath.Join(dir, "root.json"), Expires: expires.UnixMilli(),
		RootKey: filepath.Join(dir, "keys", "root.sec"), ReleaseKey: filepath.Join(dir, "keys", "release.sec"),
	}
	for _, f := range []string{out.Root, out.RootKey, out.ReleaseKey} {
		if _, err := os.Lstat(f); err == nil {
			return out, fleet.Errorf(fleet.Conflict, "%s exists", f).WithHint("a fleet's keys are made once; give another DIR")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return out, fleet.Errorf(fleet.Invalid, "%w", err)
		}
	}
	rootKey, err := trust.Generate(rand.Reader, fleetID+"-root-1")
	if err != nil {
		return out, err
	}
	releaseKey, err := trust.Generate(rand.Reader, fleetID+"-release-1")
	if err != nil {
		return out, err
	}
	root := firstRoot(fleetID, time.Now().UnixMilli(), out.Expires, rootKey, releaseKey)
	payload, err := trust.NewRoot(root)
	if err != nil {
		return out, err
	}
	envelope, err := trust.Sign(fleet.TypeRoot, payload, rootKey)
	if err != nil {
		return out, err
	}
	out.RootDigest = envelope.Digest()
	files := []struct {
		name string
		text []byte
		mode fs.FileMode
	}{
		{out.RootKey, []byte(rootKey.Encode() + "\n"), 0o600},
		{out.ReleaseKey, []byte(releaseKey.Encode() + "\n"), 0o600},
		{out.Root, append(envelope.Encode(), '\n'), 0o644},
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return out, fleet.Errorf(fleet.Invalid, "%w", err)
	}
	if err := keepOutOfFlake(&out); err != nil {
		return out, err
	}
	for i, f := range files {
		if err := atomicfile.Create(f.name, f.text, f.mode); err != nil {
			for _, g := range files[:i] {
				_ = atomicfile.Remove(g.name) // the first error is the one to report
			}
			return out, fleet.Errorf(fleet.Invalid, "%w", err)
		}
	}
	return out, nil
}

// firstRoot gives the root key the roles that change who may sign, and the
// release key those that deploying needs. It leaves out the timestamp role, which
// is for fleets that must notice when a newer document is withheld.
func firstRoot(fleetID string, now, expires int64, rootKey, releaseKey trust.SecretKey) fleet.Root {
	r, d := trust.KeyID(rootKey.Public()), trust.KeyID(releaseKey.Public())
	return fleet.Root{
		FleetID: fleetID, Version: 1, SignedAt: now, Expires: expires,
		Keys: map[string]fleet.TrustKey{r: rootKey.PublicKey().Trust(), d: releaseKey.PublicKey().Trust()},
		Roles: map[fleet.TrustRole]fleet.KeyQuota{
			fleet.TrustRoleRoot:     {Keys: []string{r}, Threshold: 1},
			fleet.TrustRoleRevoker:  {Keys: []string{r}, Threshold: 1},
			fleet.TrustRoleRelease:  {Keys: []string{d}, Threshold: 1},
			fleet.TrustRoleOperator: {Keys: []string{d}, Threshold: 1},
		},
	}
}
