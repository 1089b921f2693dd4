// SPDX-License-Identifier: AGPL-3.0-only

package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// sealedBegin is how a file in the format of age begins.
const sealedBegin = "age-encryption.org/"

// Target is where a control plane is restored to. It has no database yet.
type Target struct {
	StateDir   string
	Database   string // path
	Passphrase string // of a sealed backup
}

// Restore makes the control plane of a backup. It checks the whole file before it
// puts anything in its place, and the database comes last: what was interrupted is
// done again by the same call. The error's code is Conflict if the target has a
// database or other keys, Invalid if the file is damaged or the passphrase is not
// its own.
func Restore(ctx context.Context, file string, t Target) (Manifest, error) {
	if _, err := os.Lstat(t.Database); err == nil {
		return Manifest{}, fleet.Errorf(fleet.Conflict, "%s exists", t.Database).
			WithHint("a backup is restored only where there is no database: stop the control plane and move it away, with its -wal and -shm")
	}
	in, err := os.Open(file)
	if err != nil {
		return Manifest{}, fleet.Errorf(fleet.NotFound, "open backup: %w", err)
	}
	defer in.Close()
	if err = os.MkdirAll(t.StateDir, 0o700); err != nil {
		return Manifest{}, fleet.Errorf(fleet.Unavailable, "make state directory: %w", err)
	}
	// Beside the database, so that a link can put it in its place.
	work, err := os.MkdirTemp(filepath.Dir(t.Database), ".restore-*")
	if err != nil {
		return Manifest{}, fleet.Errorf(fleet.Unavailable, "restore: %w", err)
	}
	m, err := t.restore(ctx, in, work)
	return m, errors.Join(err, os.RemoveAll(work))
}

func (t Target) restore(ctx context.Context, in io.Reader, work string) (Manifest, error) {
	archive, err := unseal(in, t.Passphrase)
	if err != nil {
		return Manifest{}, err
	}
	m, err := unpack(ctx, archive, work)
	if err != nil {
		return m, err
	}
	if err := checkDatabase(ctx, filepath.Join(work, databaseName)); err != nil {
		return m, err
	}
	lacking := map[string][]byte{}
	for _, f := range m.Files[1:] {
		key, err := os.ReadFile(filepath.Join(work, f.Name))
		if err != nil {
			return m, fmt.Errorf("restore: %w", err)
		}
		to := filepath.Join(t.StateDir, f.Name)
		lacks, err := lacks(to, key)
		if err != nil {
			return m, err
		}
		if lacks {
			lacking[to] = key
		}
	}
	for to, key := range lacking {
		if err := atomicfile.Create(to, key, 0o600); err != nil {
			return m, fmt.Errorf("restore: %w", err)
		}
	}
	if err := atomicfile.Publish(filepath.Join(work, databaseName), t.Database); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	return m, nil
}

// unseal opens a sealed backup; one that is not sealed is returned as it is.
func unseal(in io.Reader, passphrase string) (io.Reader, error) {
	r := bufio.NewReader(in)
	begin, err := r.Peek(len(sealedBegin))
	if err != nil {
		return nil, damaged("it is too short")
	}
	if string(begin) != sealedBegin {
		return r, nil
	}
	if passphrase == "" {
		return nil, fleet.Errorf(fleet.Invalid, "the backup is sealed by a passphrase").WithHint("give it with --passphrase-file FILE")
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "passphrase: %w", err)
	}
	id.SetMaxWorkFactor(workFactor) // the file says what opening it costs: no more than what we seal
	opened, err := age.Decrypt(r, id)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "open the sealed backup: %w", err).WithHint("is the passphrase that of this backup?")
	}
	return opened, nil
}

func damaged(format string, args ...any) *fleet.Error {
	return fleet.Errorf(fleet.Invalid, "the backup is damaged, or is none: "+format, args...).WithHint("nothing was changed; try another backup")
}

// unpack writes the files into work and compares them with the manifest.
func unpack(ctx context.Context, archive io.Reader, work string) (Manifest, error) {
	var m Manifest
	r := tar.NewReader(archive)
	h, err := r.Next()
	if err != nil || h.Name != manifestName || h.Size > maxManifest {
		return m, damaged("it does not begin with a manifest")
	}
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		return m, damaged("manifest: %w", err)
	}
	if m.Format != format {
		return m, fleet.Errorf(fleet.Invalid, "the backup has format %d, this program reads format %d", m.Format, format).
			WithHint("restore it with nixfleet-control-plane %s", m.Version)
	}
	if len(m.Files) == 0 || m.Files[0].Name != databaseName {
		return m, damaged("it has no database")
	}
	for i, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		if i > 0 && (!pki.IsKeyFile(f.Name) || f.Size > maxKey) {
			return m, damaged("it holds %.80q", f.Name)
		}
		h, err := r.Next()
		if err != nil {
			return m, damaged("%s: %w", f.Name, err)
		}
		if h.Name != f.Name || h.Size != f.Size || sparse(h) {
			return m, damaged("%s is not what the manifest says", f.Name)
		}
		if err := extract(r, f, filepath.Join(work, f.Name)); err != nil {
			return m, err
		}
	}
	// What seals the archive says whether its end was cut off.
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return m, damaged("its end: %w", err)
	}
	return m, nil
}

// sparse reports whether a file has holes: a small archive could fill a disk.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag != tar.TypeReg
}

func extract(r io.Reader, f File, path string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), r)
	if closed := out.Close(); closed != nil {
		return fmt.Errorf("restore: %w", closed)
	}
	switch {
	case err != nil && errors.Is(err, io.ErrUnexpectedEOF):
		return damaged("%s is cut off", f.Name)
	case err != nil:
		return fmt.Errorf("restore %s: %w", f.Name, err)
	case n != f.Size || digest(sum.Sum(nil)) != f.SHA256:
		return damaged("%s is not what the manifest says", f.Name)
	}
	return nil
}

// checkDatabase looks for damage that was there when the backup was made.
func checkDatabase(ctx context.Context, file string) error {
	st, err := store.Open(ctx, store.Options{Path: file, ReadOnly: true})
	if err != nil {
		return err
	}
	found, err := st.Integrity(ctx)
	if err = errors.Join(err, st.Close()); err != nil {
		return err
	}
	if len(found) > 0 {
		return damaged("database: %s", strings.Join(found[:min(len(found), 3)], "; "))
	}
	return nil
}

// lacks reports whether the key file does not exist yet. It may be there with the
// same key, from a restore that was interrupted; with another, it is refused.
func lacks(file string, key []byte) (bool, error) {
	have, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, fleet.Errorf(fleet.Unavailable, "read key: %w", err)
	case !bytes.Equal(have, key):
		return false, fleet.Errorf(fleet.Conflict, "%s is another key than the backup's", file).
			WithHint("the control plane of that key has another fleet: move its state directory away, or set another stateDir")
	}
	return false, nil
}
