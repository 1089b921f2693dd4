// SPDX-License-Identifier: MIT

// Package config reads the configuration files of the agent and the control
// plane: TOML, strict (an unknown key is an error that names it), with every
// default in one place.
//
// It never searches for files and never reads the environment.
package config

import (
	"errors"
	"io/fs"
	"os"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxBytes bounds a configuration file.
const maxBytes = 1 << 20

// read returns the text of a configuration file.
func read(file string) (string, error) {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fleet.Errorf(fleet.NotFound, "configuration %s does not exist", file).WithHint("give its path with --config")
	case err != nil:
		return "", fleet.Errorf(fleet.Invalid, "read configuration: %w", err)
	case len(b) > maxBytes:
		return "", fleet.Errorf(fleet.TooLarge, "configuration %s has %d bytes; the limit is %d", file, len(b), maxBytes)
	}
	return string(b), nil
}

// decode decodes a configuration into v, which holds the defaults.
func decode(file, text string, v any) error {
	meta, err := toml.Decode(text, v)
	var parse toml.ParseError
	switch {
	case errors.As(err, &parse):
		return fleet.Errorf(fleet.Invalid, "configuration %s, line %d: %s", file, parse.Position.Line, parse.Message)
	case err != nil:
		return fleet.Errorf(fleet.Invalid, "configuration %s: %w", file, err)
	}
	unknown := meta.Undecoded()
	if len(unknown) == 0 {
		return nil
	}
	names := make([]string, len(unknown))
	for i, k := range unknown {
		names[i] = k.String()
	}
	sort.Strings(names)
	return fleet.Errorf(fleet.Invalid, "configuration %s: unknown setting %s", file, strings.Join(names, ", ")).
		WithHint("settings are written in camelCase; docs/reference/configuration.md lists them")
}

func invalid(file, format string, args ...any) error {
	return fleet.Errorf(fleet.Invalid, "configuration "+file+": "+format, args...)
}
