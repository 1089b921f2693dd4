// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/controlplane/backup"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Names of the files that backup makes in a folder. They sort by time.
const (
	backupStem   = "nixfleet-"
	backupSuffix = ".backup"
	backupTime   = "20060102T150405Z"
)

// minPassphrase is short for a word and long for what is guessed.
const minPassphrase = 12

// backupResult is what backup prints.
type backupResult struct {
	File string `json:"file"`
	Keys bool   `json:"keys"` // it holds the keys, and is sealed
	backup.Manifest
	Removed []string `json:"removed,omitempty"` // older backups, by --keep
}

func (p *program) backupCommand() *cobra.Command {
	var passphraseFile string
	var withoutKeys bool
	var keep int
	c := &cobra.Command{
		Use:   "backup DEST",
		Short: "Write database and keys to one sealed file, also while the control plane runs",
		Long: `Write database and keys to one file, also while the control plane runs.

DEST is a new file, or a folder in which a file named after the time is made. The file is sealed by a passphrase, since
whoever has the keys is the control plane. Keep the passphrase elsewhere: without it the backup cannot be opened.
--without-keys leaves the keys out and does not seal; such a backup is only useful to who has the keys.`,
		Example: "  nixfleet-control-plane backup --passphrase-file /run/secrets/backup /var/backups",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (passphraseFile == "") != withoutKeys || keep < 0 {
				return command.Usagef("give either --passphrase-file FILE or --without-keys; --keep is a number of files")
			}
			conf, err := config.ReadControlPlane(p.file)
			if err != nil {
				return err
			}
			s := backup.Source{StateDir: conf.StateDir, Version: p.Version, Now: time.Now()}
			if !withoutKeys {
				if s.Passphrase, err = readPassphrase(passphraseFile); err != nil {
					return err
				}
			}
			r, err := p.backup(c.Context(), s, conf.DatabasePath(), args[0], keep)
			if err != nil {
				return err
			}
			return p.Print(r, func(w io.Writer) {
				fmt.Fprintf(w, "wrote %s\n", r.File)
				for _, f := range r.Removed {
					fmt.Fprintf(w, "removed %s\n", f)
				}
			})
		},
	}
	p.JSONFlag(c.Flags())
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase that seals the backup")
	c.Flags().BoolVar(&withoutKeys, "without-keys", false, "leave the keys out, and do not seal")
	c.Flags().IntVar(&keep, "keep", 0, "keep only so many backups in the folder DEST, the newest; 0 keeps all")
	return c
}

func (p *program) backup(ctx context.Context, s backup.Source, database, dest string, keep int) (r backupResult, err error) {
	if r.File, err = filepath.Abs(dest); err != nil {
		return r, fleet.Errorf(fleet.Invalid, "%w", err)
	}
	folder := ""
	info, err := os.Stat(r.File)
	if err == nil && info.IsDir() {
		folder = r.File
		r.File = filepath.Join(folder, backupStem+s.Now.UTC().Format(backupTime)+backupSuffix)
	} else if keep > 0 {
		return r, command.Usagef("--keep is for a DEST that is a folder")
	}
	if s.Store, err = store.Open(ctx, store.Options{Path: database, ReadOnly: true}); err != nil {
		return r, err
	}
	p.Say("copying %s", database)
	r.Manifest, err = backup.Write(ctx, s, r.File)
	if err = errors.Join(err, s.Store.Close()); err != nil {
		return r, err
	}
	r.Keys = s.Passphrase != ""
	if keep > 0 {
		r.Removed, err = prune(folder, keep)
	}
	return r, err
}

// prune removes all but the newest backups of a folder.
func prune(folder string, keep int) (removed []string, err error) {
	all, err := filepath.Glob(filepath.Join(folder, backupStem+"*"+backupSuffix))
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	all = slices.DeleteFunc(all, func(f string) bool {
		stamp := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), backupStem), backupSuffix)
		_, err := time.Parse(backupTime, stamp)
		return err != nil // not one of ours
	})
	slices.Sort(all)
	for _, f := range all[:max(0, len(all)-keep)] {
		if err := os.Remove(f); err != nil {
			return removed, fmt.Errorf("remove old backup: %w", err)
		}
		removed = append(removed, f)
	}
	return removed, nil
}

// readPassphrase reads the first line of a file.
func readPassphrase(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fleet.Errorf(fleet.NotFound, "read passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); len(line) < minPassphrase {
		return "", fleet.Errorf(fleet.Invalid, "the passphrase in %s has %d characters, fewer than %d", file, len(line), minPassphrase).
			WithHint("make one: openssl rand -base64 24")
	}
	return line, nil
}

func (p *program) restoreCommand() *cobra.Command {
	var passphraseFile string
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the control plane of a backup, where there is none",
		Long: `Make the control plane of a backup, in the stateDir of the configuration, which has no database yet.

The whole file is checked before anything is put in its place. Agents and operators go on as before. What happened after
the backup is gone: the agents notice, and rollouts stay paused until doctor --accept-restored.`,
		Example: "  nixfleet-control-plane restore --passphrase-file /run/secrets/backup /var/backups/nixfleet-20300131T040000Z.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := config.ReadControlPlane(p.file)
			if err != nil {
				return err
			}
			t := backup.Target{StateDir: conf.StateDir, Database: conf.DatabasePath()}
			if passphraseFile != "" {
				if t.Passphrase, err = readPassphrase(passphraseFile); err != nil {
					return err
				}
			}
			p.Say("reading %s", args[0])
			m, err := backup.Restore(c.Context(), args[0], t)
			if err != nil {
				return err
			}
			missing := pki.Missing(conf.StateDir)
			return p.Print(m, func(w io.Writer) {
				fmt.Fprintf(w, "restored the control plane of %s to %s\n", time.UnixMilli(m.CreatedAt).UTC().Format(time.RFC3339), conf.StateDir)
				if len(missing) > 0 {
					fmt.Fprintf(w, "the backup holds no keys: put %s into %s before it starts\n", strings.Join(missing, ", "), conf.StateDir)
				}
			})
		},
	}
	p.JSONFlag(c.Flags())
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase that sealed the backup")
	return c
}

// checkKeys refuses a database whose machines obey keys that are not here. New
// keys would lock the whole fleet out.
func checkKeys(ctx context.Context, conf config.ControlPlane) error {
	missing := pki.Missing(conf.StateDir)
	if len(missing) == 0 {
		return nil
	}
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath(), ReadOnly: true})
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := st.MachineCount(ctx)
	if err = errors.Join(err, st.Close()); err != nil || n == 0 {
		return err
	}
	return fleet.Errorf(fleet.Conflict, "the database %s knows %d machines, and %s lacks the keys that they obey: %s",
		conf.DatabasePath(), n, conf.StateDir, strings.Join(missing, ", ")).
		WithHint("put the keys back, or move the database away and run nixfleet-control-plane restore with a backup that has both; new keys would lock the fleet out")
}
