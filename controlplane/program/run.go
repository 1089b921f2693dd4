// SPDX-License-Identifier: AGPL-3.0-only

package program

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/gates"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Run runs a control plane until ctx ends. What is wrong at the start is one
// error that says what to do.
func Run(ctx context.Context, conf config.ControlPlane, version string, log *slog.Logger) error {
	limitMemory()
	if err := os.MkdirAll(conf.StateDir, 0o700); err != nil {
		return fleet.Errorf(fleet.Unavailable, "make state directory: %w", err).WithHint("run as the user that owns it, or set stateDir")
	}
	if err := checkKeys(ctx, conf); err != nil {
		return err
	}
	names, err := server.Names(conf.TLS)
	if err != nil {
		return err
	}
	keys, err := pki.Load(conf.StateDir, names, time.Now())
	if err != nil {
		return err
	}
	identity, err := server.NewIdentity(conf.TLS, keys)
	if err != nil {
		return err
	}
	// The sockets come before the database: a second control plane says that
	// the port is in use, and has changed nothing.
	sockets, err := server.Listen(ctx, conf.Listen)
	if err != nil {
		return err
	}
	defer sockets.Close()
	st, err := store.Open(ctx, store.Options{Path: conf.DatabasePath(), Version: version, Migrating: func(from store.Schema) {
		log.Info("copying the database, and migrating it", "from", from.Version, "to", from.Known)
		notify(log, moreTime)
	}})
	if err != nil {
		return err
	}
	err = serve(ctx, conf, sockets, identity, log, plane.Config{
		Store: st, Log: log, Version: version, EpochKey: keys.EpochKey, Renewal: renewal(conf.TLS), Retention: loop.Retention{
			Events: config.Days(conf.Retention.EventDays), Reports: config.Days(conf.Retention.ReportDays),
			Audit: config.Days(conf.Retention.AuditDays), Releases: config.Days(conf.Retention.ReleaseDays),
		},
		Gates: gates.New(gates.Options{Gates: conf.Gates}),
	})
	return errors.Join(err, st.Close())
}

// moreTime asks systemd for an hour more to start: a large database is copied
// before it is migrated.
const moreTime = "EXTEND_TIMEOUT_USEC=3600000000"

func serve(ctx context.Context, conf config.ControlPlane, sockets server.Listeners, identity *server.Identity, log *slog.Logger, pc plane.Config) error {
	p, err := plane.Open(ctx, pc)
	if err != nil {
		return err
	}
	if err = armBootstrap(ctx, p, conf.Bootstrap.SecretFile, log); err != nil {
		return errors.Join(err, p.Close())
	}
	srv, err := server.New(server.Options{Plane: p, Identity: identity, Log: log, Metrics: conf.Metrics})
	if err != nil {
		return errors.Join(err, p.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		// It outlives ctx: calls that finish may need it.
		if cause := p.Run(context.WithoutCancel(ctx)); cause != nil {
			cancel(fmt.Errorf("run the engine: %w", cause))
		}
	})
	wg.Go(func() { keepPace(ctx) })
	if err = pinRoot(ctx, p, conf.Trust.RootFile, log); err != nil {
		err = errors.Join(err, p.Close())
		cancel(err)
		wg.Wait()
		return err
	}
	log.Info("control plane is up", "version", pc.Version, "operators", sockets.Operators.Addr().String(),
		"agents", sockets.Agents.Addr().String(), "metrics", sockets.Metrics.Addr().String(), "database", conf.DatabasePath(),
		"memoryLimit", debug.SetMemoryLimit(-1))
	notify(log, daemon.SdNotifyReady)
	err = srv.Serve(ctx, sockets)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	notify(log, daemon.SdNotifyStopping)
	err = errors.Join(err, p.Close())
	cancel(err)
	wg.Wait()
	log.Info("control plane has stopped")
	return err
}

// notify tells systemd, if it started us.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// pinRoot pins the root document that the configuration names, or follows to it.
// An older version than the pinned one is ignored: the chain only goes on.
func pinRoot(ctx context.Context, p *plane.Plane, file string, log *slog.Logger) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "read root document: %w", err).WithHint("trust.rootFile names it; nixfleet trust init makes one")
	}
	root, err := trust.PinRoot(b)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "root document %s: %w", file, err)
	}
	pinned, err := p.Documents.Root(ctx)
	switch {
	case fleet.ErrorCode(err) == fleet.NotFound:
	case err != nil:
		return err
	default:
		now, err := trust.PinRoot(pinned.Envelope)
		if err != nil {
			return err
		}
		if now.FleetID != root.FleetID {
			return fleet.Errorf(fleet.Conflict, "root document %s is of fleet %s, this control plane is of fleet %s", file, root.FleetID, now.FleetID).
				WithHint("another fleet needs another stateDir")
		}
		if root.Version <= now.Version {
			return nil
		}
	}
	if _, err := p.Documents.PutRoot(ctx, access.Caller{Owner: "configuration", Role: fleet.RoleAdmin}, api.Document{Envelope: b}); err != nil {
		return err
	}
	log.Info("root document pinned", "file", file, "fleet", root.FleetID, "version", root.Version)
	return nil
}

// armBootstrap gives the one-time secret to the plane. It is made at the first
// start, while there is no admin key; a file that is there is taken as it is.
func armBootstrap(ctx context.Context, p *plane.Plane, file string, log *slog.Logger) error {
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		return p.Keys.SetBootstrapSecret(ctx, strings.TrimSpace(string(b)))
	case !errors.Is(err, fs.ErrNotExist):
		return fleet.Errorf(fleet.Unavailable, "read bootstrap secret: %w", err).WithHint("run as the user that owns it, or set bootstrap.secretFile")
	}
	if has, err := p.Keys.HasAdmin(ctx); err != nil || has {
		return err
	}
	secret := rand.Text()
	if err := atomicfile.Write(file, []byte(secret+"\n"), 0o600); err != nil {
		return fleet.Errorf(fleet.Unavailable, "bootstrap secret: %w", err)
	}
	log.Info("bootstrap secret written; it is good for the first admin key", "file", file)
	return p.Keys.SetBootstrapSecret(ctx, secret)
}

// renewal is how long machines can be away.
func renewal(c config.TLS) health.Renewal {
	return health.Renewal{Late: c.RenewLate(), OtherCA: c.ClientCAFile != ""}
}
