// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// projectFile is looked for in the working directory and above.
const projectFile = "nixfleet.toml"

// flags are the flags of every command. A flag beats the environment, which beats
// the credentials, which beat the project file (O02).
type flags struct {
	set     *pflag.FlagSet
	server  string
	ca      string
	key     string
	project string
}

func (f *flags) register(set *pflag.FlagSet) {
	f.set = set
	set.StringVar(&f.server, "server", "", "control plane, such as https://fleet.example.org:8443 (NIXFLEET_SERVER)")
	set.StringVar(&f.ca, "ca", "", "PEM file with the control plane's CA (NIXFLEET_CA; default: the system's CAs)")
	set.StringVar(&f.key, "key-file", "", "file with the API key (NIXFLEET_API_KEY holds the key itself)")
	set.StringVar(&f.project, "project", "", "project file; '' for none (default: nixfleet.toml in the working directory or above)")
}

// Project is nixfleet.toml: the settings of a fleet that its operators share.
// Files in it are relative to its folder.
type Project struct {
	// Server is the control plane, such as https://fleet.example.org:8443. The
	// flag --server, NIXFLEET_SERVER and the saved credentials come before it.
	Server string `toml:"server"`
	// CA is a PEM file with the CA of that control plane. Without one, the
	// system's CAs are trusted.
	CA string `toml:"ca"`
	// FleetID is the fleet's name in its root document. A root document of another
	// fleet is refused.
	FleetID string `toml:"fleet"`
	// Flake declares the fleet. Default: the flake in the working directory.
	Flake string `toml:"flake"`
	// Line is the release train that releases are made for.
	Line string `toml:"line"`
	// Root is the file with the fleet's root document, with which a release is
	// checked before it is registered. Default: the control plane's.
	Root    string         `toml:"root"`
	Cache   ProjectCache   `toml:"cache"`
	Release ProjectRelease `toml:"release"`
}

// ProjectCache is the binary cache that the machines fetch from.
type ProjectCache struct {
	// URL is what machines fetch from, as nix copy takes it.
	URL string `toml:"url"`
	// PublicKeys are the keys by which machines accept paths from the cache, as in
	// trusted-public-keys: name:base64.
	PublicKeys []string `toml:"publicKeys"`
	// Push is where release create pushes to, as nix copy takes it. Without it,
	// nothing is pushed: the cache must have what is built.
	Push string `toml:"push"`
	// SignKey is the secret key file that signs what is pushed. Without it, the
	// cache signs what it serves.
	SignKey string `toml:"signKey"`
}

// ProjectRelease are settings that a release signs for its machines.
type ProjectRelease struct {
	// ConfirmWindow is how long a machine may take after a switch to prove that
	// it reaches the network, before its watchdog rolls it back: 1 second to 24
	// hours.
	ConfirmWindow Duration `toml:"confirmWindow"`
	// RevertWindow is how long after activation a machine obeys a revert order: 0
	// to 30 days.
	RevertWindow Duration `toml:"revertWindow"`
	// Expires is how long the release may be accepted.
	Expires Duration `toml:"expires"`
}

// Duration is a time.Duration that TOML writes as "90s".
type Duration time.Duration

// UnmarshalText reads "90s", "24h".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// String is the inverse of UnmarshalText.
func (d Duration) String() string { return time.Duration(d).String() }

// DefaultProject returns the settings that hold without a project file.
func DefaultProject() Project {
	return Project{Line: "main", Release: ProjectRelease{
		ConfirmWindow: Duration(5 * time.Minute), RevertWindow: Duration(24 * time.Hour), Expires: Duration(365 * 24 * time.Hour),
	}}
}

// credentials are in a file that only the user may read. `nixfleet key bootstrap`
// writes it.
type credentials struct {
	Server string `toml:"server"`
	CA     string `toml:"ca"` // PEM text
	Key    string `toml:"key"`
}

func strictTOML(file, text string, v any) error {
	meta, err := toml.Decode(text, v)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "%s: %w", file, err)
	}
	if u := meta.Undecoded(); len(u) > 0 {
		return fleet.Errorf(fleet.Invalid, "%s: unknown setting %s", file, u[0]).WithHint("docs/reference/configuration.md lists the settings")
	}
	return nil
}

func (a *app) credentialsFile() (string, error) {
	dir := a.Env("XDG_CONFIG_HOME")
	if dir == "" {
		home := a.Env("HOME")
		if home == "" {
			return "", fleet.Errorf(fleet.Invalid, "neither HOME nor XDG_CONFIG_HOME is set").WithHint("give --key-file, or NIXFLEET_API_KEY")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "nixfleet", "credentials.toml"), nil
}

func (a *app) readCredentials() (credentials, error) {
	var c credentials
	file, err := a.credentialsFile()
	if err != nil {
		return c, nil // no place for a file: no credentials
	}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return c, fleet.Errorf(fleet.Invalid, "read credentials: %w", err)
	}
	return c, strictTOML(file, string(text), &c)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// all collects every page of a list.
func all[T any](ctx context.Context, list func(context.Context, fleet.PageRequest) (api.Page[T], error)) ([]T, error) {
	out := []T{}
	for v, err := range api.All(ctx, list) {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
