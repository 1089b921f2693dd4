// SPDX-License-Identifier: AGPL-3.0-only

// Package backup writes all that a control plane is into one file, and makes a
// control plane of such a file again. Without its keys a database is of little
// use: agents and operators obey and trust those keys, and no others.
//
// The file is a tar archive that begins with its manifest. With keys in it, it is
// sealed by a passphrase in the format of age (https://age-encryption.org/v1).
//
// It never decides when a backup is due, or where it is kept.
package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

const (
	format       = 1
	manifestName = "manifest.json"
	databaseName = "database"
	maxManifest  = 1 << 20
	maxKey       = 1 << 20 // bytes of a key file
)

// workFactor is what guessing a passphrase costs, as a power of two: about a second
// a guess.
var workFactor = 18

// Manifest says what a backup holds.
type Manifest struct {
	Format    int    `json:"format"`
	CreatedAt int64  `json:"createdAt"` // Unix ms
	Version   string `json:"version"`   // of the control plane that made it
	Files     []File `json:"files"`     // in the order of the archive
}

// File is one file of a backup.
type File struct {
	Name   string       `json:"name"` // "database", or a key file's name in the state directory
	Size   int64        `json:"size"` // bytes
	SHA256 fleet.Digest `json:"sha256"`
}

// Source is the control plane to back up. It may be running.
type Source struct {
	Store    *store.Store
	StateDir string
	Version  string
	Now      time.Time
	// Passphrase seals the backup. Without one, the keys are left out.
	Passphrase string
}

// Write makes a backup in a new file, which appears when it is whole. The error's
// code is Conflict if the file exists.
func Write(ctx context.Context, s Source, dest string) (Manifest, error) {
	if _, err := os.Lstat(dest); err == nil {
		return Manifest{}, fleet.Errorf(fleet.Conflict, "backup: %s exists", dest).WithHint("name a new file")
	}
	work, err := os.MkdirTemp(filepath.Dir(dest), ".backup-*")
	if err != nil {
		return Manifest{}, fmt.Errorf("backup: %w", err)
	}
	m, err := s.write(ctx, work, dest)
	return m, errors.Join(err, os.RemoveAll(work))
}

func (s Source) write(ctx context.Context, work, dest string) (Manifest, error) {
	m := Manifest{Format: format, CreatedAt: s.Now.UnixMilli(), Version: s.Version}
	database := filepath.Join(work, databaseName)
	if err := s.Store.Backup(ctx, database); err != nil {
		return m, err
	}
	paths := []string{database}
	if s.Passphrase != "" {
		keys, err := pki.KeyFiles(s.StateDir)
		if err != nil {
			return m, err
		}
		paths = append(paths, keys...)
	}
	for _, p := range paths {
		f, err := describe(p)
		if err != nil {
			return m, fmt.Errorf("backup: %w", err)
		}
		m.Files = append(m.Files, f)
	}
	whole := filepath.Join(work, "backup")
	out, err := os.OpenFile(whole, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	err = s.archive(ctx, m, paths, out)
	if err = errors.Join(err, out.Close()); err != nil {
		return m, fmt.Errorf("backup to %s: %w", dest, err)
	}
	if err := atomicfile.Publish(whole, dest); err != nil {
		return m, fmt.Errorf("backup: %w", err)
	}
	return m, nil
}

// archive writes the files, sealed if there is a passphrase.
func (s Source) archive(ctx context.Context, m Manifest, paths []string, to io.Writer) error {
	if s.Passphrase == "" {
		return pack(ctx, m, paths, to)
	}
	r, err := age.NewScryptRecipient(s.Passphrase)
	if err != nil {
		return err
	}
	r.SetWorkFactor(workFactor)
	sealed, err := age.Encrypt(to, r)
	if err != nil {
		return err
	}
	return errors.Join(pack(ctx, m, paths, sealed), sealed.Close())
}

func pack(ctx context.Context, m Manifest, paths []string, to io.Writer) error {
	w := tar.NewWriter(to)
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	at := time.UnixMilli(m.CreatedAt)
	if err := w.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(text)), ModTime: at}); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	for i, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: 0o600, Size: f.Size, ModTime: at}); err != nil {
			return err
		}
		in, err := os.Open(paths[i])
		if err != nil {
			return err
		}
		_, err = io.Copy(w, in)
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return w.Close()
}

func describe(path string) (File, error) {
	in, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return File{}, err
	}
	return File{Name: filepath.Base(path), Size: n, SHA256: digest(h.Sum(nil))}, nil
}

func digest(sum []byte) fleet.Digest { return fleet.Digest(fmt.Sprintf("sha256:%x", sum)) }
