// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// projectFile is looked for in the working directory and above.
const projectFile = "nixfleet.toml"

// flags are those that every command takes. What the user gave on the command
// line beats the environment, that beats the credentials, and those beat the
// project file (O02).
type flags struct {
	set    *pflag.FlagSet
	server string
	ca     string
	key    string
}

func (f *flags) register(set *pflag.FlagSet) {
	f.set = set
	set.StringVar(&f.server, "server", "", "control plane, such as https://fleet.example.org:8443 (NIXFLEET_SERVER)")
	set.StringVar(&f.ca, "ca", "", "PEM file with the control plane's CA (NIXFLEET_CA); none: the system's CAs")
	set.StringVar(&f.key, "key-file", "", "file with the API key (NIXFLEET_API_KEY holds the key itself)")
}

// project is nixfleet.toml: what all who work on a fleet share.
type project struct {
	Server  string `toml:"server"`
	CA      string `toml:"ca"`
	FleetID string `toml:"fleet"`
	Flake   string `toml:"flake"`
	Line    string `toml:"line"`
	Root    string `toml:"root"` // the fleet's root document
	Cache   struct {
		URL        string   `toml:"url"`        // that machines fetch from
		PublicKeys []string `toml:"publicKeys"` // by which they accept paths from it
		Push       string   `toml:"push"`       // that nix copy writes to
		SignKey    string   `toml:"signKey"`    // secret key file; none: the cache signs
	} `toml:"cache"`
	Release struct {
		ConfirmWindow duration `toml:"confirmWindow"`
		RevertWindow  duration `toml:"revertWindow"`
		Expires       duration `toml:"expires"`
	} `toml:"release"`
}

// duration is a time.Duration that TOML writes as "90s".
type duration time.Duration

// UnmarshalText reads "90s", "24h".
func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

// credentials is a file of the user alone; `nixfleet key bootstrap` writes it.
type credentials struct {
	Server string `toml:"server"`
	CA     string `toml:"ca"` // PEM text
	Key    string `toml:"key"`
}

// readProject finds and reads the project file; without one it is empty. Paths
// in it are relative to where it lies. A broken one is an error (O08).
func readProject() (project, error) {
	var p project
	dir, err := os.Getwd()
	if err != nil {
		return p, fmt.Errorf("find project file: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		file := filepath.Join(dir, projectFile)
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			if dir == filepath.Dir(dir) {
				return p, nil
			}
			continue
		}
		if err != nil {
			return p, fleet.Errorf(fleet.Invalid, "read project file: %w", err)
		}
		if err := strictTOML(file, string(text), &p); err != nil {
			return p, err
		}
		for _, path := range []*string{&p.CA, &p.Root, &p.Cache.SignKey} {
			if *path != "" && !filepath.IsAbs(*path) {
				*path = filepath.Join(dir, *path)
			}
		}
		if p.Flake != "" && !strings.Contains(p.Flake, ":") && !filepath.IsAbs(p.Flake) {
			p.Flake = filepath.Join(dir, p.Flake)
		}
		return p, nil
	}
}

func strictTOML(file, text string, v any) error {
	meta, err := toml.Decode(text, v)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "%s: %w", file, err)
	}
	if u := meta.Undecoded(); len(u) > 0 {
		return fleet.Errorf(fleet.Invalid, "%s: unknown setting %s", file, u[0]).WithHint("nixfleet help lists the settings")
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
		return c, nil // nothing says where they would be: none
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

// server is where the control plane is and how to talk to it.
type server struct {
	URL string
	CA  []byte // PEM
	Key string
}

// findServer gathers the settings. A key from the credentials goes to the
// server it was given for, and to no other (E09).
func (a *app) findServer() (server, error) {
	p, err := readProject()
	if err != nil {
		return server{}, err
	}
	c, err := a.readCredentials()
	if err != nil {
		return server{}, err
	}
	s := server{URL: first(a.flags.server, a.Env("NIXFLEET_SERVER"), c.Server, p.Server), Key: a.Env("NIXFLEET_API_KEY")}
	if s.URL == "" {
		return server{}, fleet.Errorf(fleet.Invalid, "no control plane is named").
			WithHint("give --server, set NIXFLEET_SERVER, or put server = \"https://...\" into %s", projectFile)
	}
	if !strings.HasPrefix(s.URL, "https://") {
		return server{}, fleet.Errorf(fleet.Invalid, "control plane %q: want a URL that begins with https://", s.URL)
	}
	if file := a.flags.key; file != "" {
		b, err := a.readFile(file, 4096)
		if err != nil {
			return server{}, err
		}
		s.Key = strings.TrimSpace(string(b))
	}
	same := s.URL == c.Server
	if s.Key == "" && same {
		s.Key = c.Key
	}
	if file := first(a.flags.ca, a.Env("NIXFLEET_CA")); file != "" {
		if s.CA, err = a.readFile(file, 1<<20); err != nil {
			return server{}, err
		}
	} else if same && c.CA != "" {
		s.CA = []byte(c.CA)
	} else if p.CA != "" && s.URL == p.Server {
		if s.CA, err = a.readFile(p.CA, 1<<20); err != nil {
			return server{}, err
		}
	}
	return s, nil
}

// client connects to the control plane with the user's key.
func (a *app) client() (*api.Client, error) {
	s, err := a.findServer()
	if err != nil {
		return nil, err
	}
	if s.Key == "" {
		return nil, fleet.Errorf(fleet.Unauthenticated, "no API key for %s", s.URL).
			WithHint("nixfleet key bootstrap makes the first one; or set NIXFLEET_API_KEY, or give --key-file")
	}
	return a.connect(s)
}

func (a *app) connect(s server) (*api.Client, error) {
	return api.NewClient(api.ClientConfig{BaseURL: s.URL, Key: s.Key, CAPem: s.CA, UserAgent: "nixfleet/" + a.Version})
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
func all[T any](ctx context.Context, list func(context.Context, api.PageQuery) (api.Page[T], error)) ([]T, error) {
	out := []T{}
	for v, err := range api.All(ctx, list) {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
