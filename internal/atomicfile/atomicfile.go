// SPDX-License-Identifier: MIT

// Package atomicfile writes files that survive a crash: after one, a file has
// its old content or its new one, whole. When a function returns without an
// error, what it did is on the disk.
//
// It never decides where a file lies or who may read it.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file name by data, with the given mode whatever the umask
// is. It writes a file beside it first, syncs it, renames it and syncs the
// folder.
func Write(name string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(name, data, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(temp)))
	}
	return syncFolder(name)
}

// Create is Write for a file that must not exist yet: an existing one stays as
// it is, and the error is fs.ErrExist.
func Create(name string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(name, data, mode)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return Publish(temp, name)
}

// Publish gives the file temp, in the same file system, the name that it is to
// have once it is whole. An existing file stays as it is, and the error is
// fs.ErrExist. In each case temp is gone.
func Publish(temp, name string) error {
	f, err := os.Open(temp)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	err = errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = os.Link(temp, name) // unlike a rename, it replaces nothing
	}
	if err = errors.Join(err, os.Remove(temp)); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return syncFolder(name)
}

// Remove deletes a file. One that does not exist is no error.
func Remove(name string) error {
	if err := os.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return syncFolder(name)
}

// Temporary reports whether a file of this name, without its folder, is one
// that an interrupted write has left.
func Temporary(name string) bool {
	return len(name) > 1 && name[0] == '.' && filepath.Ext(name) == suffix
}

const suffix = ".tmp"

func writeTemp(name string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*"+suffix)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// syncFolder makes what happened to a name durable.
func syncFolder(name string) error {
	dir := filepath.Dir(name)
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
