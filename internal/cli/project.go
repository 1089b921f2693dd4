// SPDX-License-Identifier: MIT

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/arcanesys/nixfleet/fleet"
)

// project is a project file as it was read.
type project struct {
	Project
	file string // "" for the defaults
}

// readProject reads the project file: the one that --project names, or the nearest
// one. Without one it returns the defaults. An invalid one is an error (O08), and
// so is one that somebody else may have put there.
func (a *app) readProject() (project, error) {
	if a.flags.set != nil && a.flags.set.Changed("project") {
		if a.flags.project == "" {
			return project{Project: DefaultProject()}, nil
		}
		file, err := filepath.Abs(a.flags.project)
		if err != nil {
			return project{}, fmt.Errorf("find project file: %w", err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return project{}, fleet.Errorf(fleet.Invalid, "read project file: %w", err)
		}
		return parseProject(file, string(text))
	}
	dir, err := os.Getwd()
	if err != nil {
		return project{}, fmt.Errorf("find project file: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := a.readFound(filepath.Join(dir, projectFile))
		switch {
		case err == nil:
			return parseProject(filepath.Join(dir, projectFile), text)
		case !errors.Is(err, fs.ErrNotExist):
			return project{}, err
		case dir == filepath.Dir(dir):
			return project{Project: DefaultProject()}, nil
		}
	}
}

func parseProject(file, text string) (project, error) {
	p := project{Project: DefaultProject(), file: file}
	if err := strictTOML(file, text, &p.Project); err != nil {
		return p, err
	}
	dir := filepath.Dir(file)
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

// readFound reads a project file that nobody named, if only the user and root
// decide what is in it.
func (a *app) readFound(file string) (string, error) {
	link, err := os.Lstat(file)
	if err != nil {
		return "", foundError(err)
	}
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fleet.Errorf(fleet.Invalid, "the project file %s is a link to no file", file)
	case err != nil:
		return "", foundError(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", foundError(err)
	}
	folder, err := os.Stat(filepath.Dir(file))
	if err != nil {
		return "", foundError(err)
	}
	at := place{owner(link), owner(info), info.Mode(), folder.Mode()}
	if why := at.fault(a.trustedUsers(os.Geteuid())); why != "" {
		return "", fleet.Errorf(fleet.Refused, "the project file %s is not read: %s", file, why).
			WithHint("to use it all the same, give --project %s; to do without one, --project ''", file)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return "", foundError(err)
	}
	return string(text), nil
}

// foundError keeps fs.ErrNotExist, by which the search continues.
func foundError(err error) error {
	return fleet.Errorf(fleet.Invalid, "read project file: %w", err)
}

// trustedUsers are the user, root, and who became root with sudo.
func (a *app) trustedUsers(user int) []int {
	users := []int{user, 0}
	if id, err := strconv.Atoi(a.Env("SUDO_UID")); err == nil && user == 0 {
		users = append(users, id)
	}
	return users
}

// place is what decides whether a found project file is read.
type place struct {
	linkOwner, fileOwner int // differ if the file is a link
	file, folder         fs.FileMode
}

// fault says why others may have decided what the file says, or "". Files in it are
// relative to its folder, so who may write there decides as well. Group write
// access does not count: with the usual umask of 002, every file has it.
func (p place) fault(trusted []int) string {
	const everybody = 0o002
	switch {
	case !slices.Contains(trusted, p.linkOwner):
		return fmt.Sprintf("it belongs to user %d, not to you", p.linkOwner)
	case !slices.Contains(trusted, p.fileOwner):
		return fmt.Sprintf("it is a link to a file of user %d, not of yours", p.fileOwner)
	case p.file&everybody != 0:
		return "everybody may write it"
	case p.folder&everybody != 0 && p.folder&fs.ModeSticky == 0:
		return "everybody may write into its folder"
	}
	return ""
}

func owner(i fs.FileInfo) int { return int(i.Sys().(*syscall.Stat_t).Uid) }
