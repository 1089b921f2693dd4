// SPDX-License-Identifier: MIT

// Package seen keeps what a user has seen at each control plane: the audit
// checkpoint, the newest release of each line, and the latest epoch.
//
// It never believes a control plane that shows less than it did.
package seen

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Place is where this user keeps what was seen at one control plane. The zero Place
// has seen nothing, and keeps nothing.
type Place struct{ dir, name string }

// At returns the place for the control plane at url, in the state folder that the
// environment names. The error's code is Invalid.
func At(env func(string) string, url string) (Place, error) {
	dir := env("XDG_STATE_HOME")
	if dir == "" {
		home := env("HOME")
		if home == "" {
			return Place{}, fleet.Errorf(fleet.Invalid, "neither HOME nor XDG_STATE_HOME is set, so what is seen at a control plane cannot be kept").WithHint("set XDG_STATE_HOME to a folder that is kept")
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return Place{filepath.Join(dir, "nixfleet"), strings.TrimPrefix(string(fleet.SHA256([]byte(url))), "sha256:")[:16] + ".json"}, nil
}

// AuditFile holds the audit checkpoint.
func (p Place) AuditFile() string { return filepath.Join(p.dir, "audit-"+p.name) }

// Audit returns the audit head that was last seen, or nil.
func (p Place) Audit() (*fleet.AuditHead, error) {
	var h *fleet.AuditHead
	err := read(p.AuditFile(), &h)
	return h, err
}

// SaveAudit keeps an audit head.
func (p Place) SaveAudit(h fleet.AuditHead) error { return write(p.AuditFile(), h) }

func (p Place) epochFile() string { return filepath.Join(p.dir, "epoch-"+p.name) }

// Epoch returns the latest epoch that was seen; "" if none was.
func (p Place) Epoch() (string, error) {
	var epoch string
	err := read(p.epochFile(), &epoch)
	return epoch, err
}

// KeepEpoch remembers an epoch, if no later one was seen: by another program, for
// example.
func (p Place) KeepEpoch(epoch string) error {
	have, err := p.Epoch()
	if err != nil || !api.EpochAfter(epoch, have) {
		return err
	}
	return write(p.epochFile(), epoch)
}

// read decodes a file into v, which stays as it is if there is none.
func read(file string, v any) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "read what was seen at the control plane, %s: %w", file, err).WithHint("remove the file to start again without it")
	}
	return nil
}

func write(file string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "keep what was seen at the control plane: %w", err)
	}
	return nil
}
