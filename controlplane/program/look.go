// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

func (p *program) doctorCommand() *cobra.Command {
	var accept, deep bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the control plane",
		Long: "Look for what is wrong with the control plane. Exit code 1 if there is an error among the findings.\n\n" +
			"It says how full the disk is, asks the running control plane whether it is ready, and looks at the newest rows.\n" +
			"--deep looks for damage in the whole database.\n\n" +
			"A database that is older than what agents remember was restored from a backup: rollouts stay paused\n" +
			"until --accept-restored says, with the control plane stopped, that it is to go on with it.",
		Example: `  nixfleet-control-plane doctor --json
  nixfleet-control-plane doctor --deep`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.ReadControlPlane(p.file)
			if err != nil {
				return err
			}
			if accept {
				if err = acceptRestored(c.Context(), conf, p.Version); err != nil {
					return err
				}
			}
			e, err := examine(c.Context(), conf, deep, p.Say)
			if err != nil {
				return err
			}
			if err := p.Print(e, e.text); err != nil {
				return err
			}
			for _, f := range e.Findings {
				if f.Severity == "error" {
					return fleet.Errorf(fleet.Conflict, "the control plane has a problem: %s", f.Message).WithHint("%s", f.Hint)
				}
			}
			return nil
		},
	}
	p.JSONFlag(c.Flags())
	c.Flags().BoolVar(&deep, "deep", false, "read the whole database and look for damage; takes some seconds for each GiB")
	c.Flags().BoolVar(&accept, "accept-restored", false, "go on with a database that was restored from a backup; the control plane must be stopped")
	return c
}

// acceptRestored ends the restored mode of a control plane that does not run.
func acceptRestored(ctx context.Context, conf config.ControlPlane, version string) error {
	epoch, err := pki.EpochKey(conf.StateDir)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath(), Version: version})
	if err != nil {
		return err
	}
	p, err := plane.Open(ctx, plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), EpochKey: epoch})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	return errors.Join(p.Epoch.Accept(ctx, "administrator"), p.Close(), st.Close())
}

// examination is what doctor prints.
type examination struct {
	Findings []health.Finding `json:"findings"`
	Storage  storage          `json:"storage"`
}

// storage is where the database lies, and the room that it has and takes.
type storage struct {
	diskspace.Space
	Sizes  dbfiles.Sizes  `json:"sizes"`
	Schema store.Schema   `json:"schema"`
	Copies []dbfiles.Copy `json:"copies,omitempty"` // from before migrations
	// Retention is what is kept for how long, and AuditBegins after which entry the
	// audit trail begins; 0 if it has all.
	Retention   config.Retention `json:"retention"`
	AuditBegins int64            `json:"auditBegins"`
}

// little is how much room there should be at least: less is told.
const little = 256 << 20

// examine looks at the disk, and at the database, which it opens for reading only.
func examine(ctx context.Context, conf config.ControlPlane, deep bool, say func(string, ...any)) (e examination, err error) {
	e.Findings, e.Storage.Retention = []health.Finding{}, conf.Retention
	if e.Storage.Space, err = diskspace.Of(filepath.Dir(conf.DatabasePath())); err != nil {
		return e, fleet.Errorf(fleet.NotFound, "%w", err).WithHint("stateDir, or database.url, names the folder")
	}
	switch {
	case e.Storage.ReadOnly:
		e.add("error", "disk", fmt.Sprintf("the file system of %s is read-only", e.Storage.Folder), "the kernel's log says why; mount it for writing")
	case e.Storage.Full():
		e.add("error", "disk", fmt.Sprintf("the disk is full: %s, %s", e.Storage.Folder, e.Storage.Space), "make room; the control plane goes on by itself then")
	case e.Storage.Free < little:
		e.add("warning", "disk", fmt.Sprintf("the disk is nearly full: %s, %s", e.Storage.Folder, e.Storage.Space), "make room before the control plane takes no writes")
	}
	if why := askReady(ctx, conf.Listen.Metrics); why != "" {
		e.add("error", "control-plane", "the running control plane is not ready: "+why, "its log says more")
	}
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath(), ReadOnly: true})
	switch code := fleet.ErrorCode(err); {
	case code == fleet.StorageFull || code == fleet.StorageFailed:
		e.add("error", "database", err.Error(), fleet.ErrorHint(err))
		return e, nil
	case err != nil:
		return e, err
	}
	e.Storage.Schema = st.Schema()
	if e.Storage.Copies, err = dbfiles.Copies(conf.DatabasePath()); err != nil {
		return e, errors.Join(err, st.Close())
	}
	if e.Storage.Sizes, err = dbfiles.SizesOf(conf.DatabasePath()); err != nil {
		return e, errors.Join(err, st.Close())
	}
	if have := e.Storage.Schema; have.Version < have.Known {
		e.add("warning", "database", fmt.Sprintf("the database has schema %d, and this program makes it %d at its next start", have.Version, have.Known), "")
		return e, st.Close()
	}
	if cut, failed := st.AuditCut(ctx); failed == nil { // what is wrong with the trail, inspect tells
		e.Storage.AuditBegins = cut.Size
	}
	err = e.inspect(ctx, conf, st, deep, say)
	return e, errors.Join(err, st.Close())
}

func (e *examination) add(severity, subject, message, hint string) {
	e.Findings = append(e.Findings, health.Finding{Severity: severity, Subject: subject, Message: message, Hint: hint})
}

// inspect looks at what is in the database.
func (e *examination) inspect(ctx context.Context, conf config.ControlPlane, st *store.Store, deep bool, say func(string, ...any)) error {
	epoch, err := pki.EpochKey(conf.StateDir)
	if err != nil {
		return err
	}
	p, err := plane.Open(ctx, plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), EpochKey: epoch, Renewal: renewal(conf.TLS)})
	if fleet.ErrorCode(err) == fleet.StorageFailed {
		e.add("error", "database", err.Error(), fleet.ErrorHint(err))
		return nil
	}
	if err != nil {
		return err
	}
	// The plane is not closed: that writes what is in memory, and nothing is.
	if deep {
		say("reading the whole database, %d MiB", e.Storage.Sizes.Database>>20)
		damage, broken := p.Health.Deep(ctx)
		if broken != nil {
			return broken
		}
		e.Findings = append(e.Findings, damage...)
	}
	found, err := p.Health.Doctor(ctx)
	if fleet.ErrorCode(err) == fleet.StorageFailed {
		e.add("error", "database", err.Error(), fleet.ErrorHint(err))
		return nil
	}
	e.Findings = append(e.Findings, found...)
	return err
}

// askReady asks the control plane that runs, if one does, why it is not ready.
func askReady(ctx context.Context, address string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "" // it does not run, or not there
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (e examination) text(w io.Writer) {
	for _, f := range e.Findings {
		fmt.Fprintf(w, "%s: %s: %s\n", f.Severity, f.Subject, f.Message)
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", f.Hint)
		}
	}
	if len(e.Findings) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
	z := e.Storage.Sizes
	fmt.Fprintf(w, "the database has %d KiB, its log %d KiB; %s: %s\n", z.Database>>10, z.Log>>10, e.Storage.Folder, e.Storage.Space)
	keep := e.Storage.Retention
	fmt.Fprintf(w, "kept: events %s, reports %s, audit trail %s, releases that nothing needs %s\n",
		days(keep.EventDays), days(keep.ReportDays), days(keep.AuditDays), days(keep.ReleaseDays))
	if e.Storage.AuditBegins > 0 {
		fmt.Fprintf(w, "the audit trail begins after entry %d: those before were removed, as the retention says\n", e.Storage.AuditBegins)
	}
	if have := e.Storage.Schema; have.Version > have.Known {
		fmt.Fprintf(w, "a newer control plane, %s, has added to the database; this one can use it\n", cmp.Or(have.Program, "of a version that is not known"))
	}
	for _, c := range e.Storage.Copies {
		fmt.Fprintf(w, "%s is a copy from before schema %d was migrated: %d KiB\n", c.Path, c.Schema, c.Size>>10)
	}
}

// days says for how long something is kept.
func days(n int) string {
	switch n {
	case 0:
		return "for ever"
	case 1:
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}
