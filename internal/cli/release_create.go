// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/documents"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/signer"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// createOptions are the options of `release create`, from the command line and
// the project file.
type createOptions struct {
	name     string
	flake    string
	on       []string
	line     string
	from     string // the release whose systems are signed again
	after    string // the release to follow, where nothing verifies the line's newest
	root     string
	keys     documents.Keys
	unsigned bool
	out      string // the file for a release that is not registered yet
	cache    string
	cacheKey []string
	push     string
	pushKey  string
	nixArgs  []string
	jobs     int
	dryRun   bool
	confirm  time.Duration
	revert   time.Duration
	expires  time.Duration
	fleetID  string                 // that the project file names, or ""
	given    func(flag string) bool // on the command line
}

// created is the result of `release create`.
type created struct {
	Digest     fleet.Digest                        `json:"digest,omitempty"` // empty: dry run
	Name       string                              `json:"name,omitempty"`
	Line       fleet.Line                          `json:"line"`
	Sequence   uint64                              `json:"sequence"`
	Machines   map[fleet.MachineID]fleet.StorePath `json:"machines"`
	Diff       *fleet.ReleaseDiff                  `json:"diff,omitempty"` // to the release before
	File       string                              `json:"file,omitempty"` // where it was written to, and not registered
	DurationMs map[string]int64                    `json:"durationMs"`
}

func newCreated(h fleet.Header, entries []fleet.Entry, spent map[string]int64) created {
	c := created{Name: h.Name, Line: h.Line, Sequence: h.Sequence, Machines: map[fleet.MachineID]fleet.StorePath{}, DurationMs: spent}
	for _, e := range entries {
		c.Machines[e.ID] = e.StorePath
	}
	return c
}

func (a *app) releaseCreateCmd() *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use:   "create",
		Short: "Evaluate, build, push, sign and register the systems of a flake",
		Long: `Evaluate, build, push, sign and register the systems of a flake.

Every host in nixosConfigurations and darwinConfigurations becomes an entry of the release, or
every host that --on selects. Nothing is registered unless all of them are evaluated, built and
pushed. Put settings that do not change into nixfleet.toml beside the flake.

Where several people sign, --out writes the release to a file instead, with the signatures given
here or none (--unsigned). Each signs it with nixfleet trust sign, and nixfleet release register
registers it.`,
		Example: "  nixfleet release create --flake . --sign-key trust/keys/release.sec\n" +
			"  nixfleet release create --from sha256:4f2a...   # undo: a new release of older systems",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.given = cmd.Flags().Changed
			if o.unsigned && o.out == "" {
				return command.Usagef("--unsigned needs --out FILE: what is not signed cannot be registered")
			}
			return a.createRelease(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "a name for this release")
	f.StringVar(&o.flake, "flake", "", "flake that declares the fleet (nixfleet.toml: flake; else the working directory)")
	f.StringSliceVar(&o.on, "on", nil, "only these hosts: web-01,web-*,!web-3 (default: all)")
	f.StringVar(&o.line, "line", "", `release train (default "main")`)
	f.StringVar(&o.from, "from", "", "a registered release: sign its systems again, evaluate and build nothing")
	f.StringVar(&o.after, "after", "", "follow this release of the line, if its newest cannot be verified: after new release keys, or a restored backup")
	f.StringVar(&o.root, "root", "", "the fleet's root document, which the release is checked with before it is registered")
	o.keys.Register(f)
	f.BoolVar(&o.unsigned, "unsigned", false, "sign nothing here; needs --out")
	f.StringVar(&o.out, "out", "", "write the release to a new file, for others to sign, and register nothing")
	f.StringVar(&o.cache, "cache", "", "URL of the binary cache that machines fetch from")
	f.StringArrayVar(&o.cacheKey, "cache-key", nil, "public key by which machines accept paths from the cache")
	f.StringVar(&o.push, "push", "", "where to push to, as nix copy takes it (default: push nothing; the cache has it)")
	f.StringVar(&o.pushKey, "push-key", "", "secret key file that signs what is pushed (default: the cache signs by itself)")
	f.StringArrayVar(&o.nixArgs, "nix-arg", nil, "another argument for nix, such as --nix-arg=--impure")
	f.IntVar(&o.jobs, "jobs", 2, "hosts to evaluate at once")
	f.BoolVar(&o.dryRun, "dry-run", false, "evaluate, build and show what would change; push and register nothing")
	f.DurationVar(&o.confirm, "confirm-window", 0, "how long a machine may take to prove that it reaches the network (default 5m)")
	f.DurationVar(&o.revert, "revert-window", 0, "how long after activation a revert order is obeyed (default 24h)")
	f.DurationVar(&o.expires, "expires", 0, "how long the release may be accepted (default 8760h)")
	return c
}

// fill completes the options from the environment, the project file and the
// defaults. A flag that was given counts, also with an empty value (O02).
func (a *app) fill(o createOptions) (createOptions, error) {
	p, err := a.readProject()
	if err != nil {
		return o, err
	}
	for _, s := range []struct {
		flag    string
		value   *string
		project string
	}{
		{"flake", &o.flake, first(p.Flake, ".")}, {"line", &o.line, p.Line}, {"root", &o.root, p.Root},
		{"cache", &o.cache, p.Cache.URL}, {"push", &o.push, p.Cache.Push}, {"push-key", &o.pushKey, p.Cache.SignKey},
	} {
		if !o.given(s.flag) {
			*s.value = s.project
		}
	}
	o.fleetID = p.FleetID
	if !o.given("cache-key") {
		o.cacheKey = p.Cache.PublicKeys
	}
	for _, d := range []struct {
		flag    string
		value   *time.Duration
		project Duration
	}{
		{"confirm-window", &o.confirm, p.Release.ConfirmWindow}, {"revert-window", &o.revert, p.Release.RevertWindow},
		{"expires", &o.expires, p.Release.Expires},
	} {
		if !o.given(d.flag) {
			*d.value = time.Duration(d.project)
		}
	}
	if !fleet.Line(o.line).Valid() {
		return o, command.Usagef("--line %q must have the syntax of a host name", o.line)
	}
	if o.flake, err = nix.NormalRef(o.flake); err != nil {
		return o, fleet.Errorf(fleet.Invalid, "flake: %w", err)
	}
	return o, nil
}

// createRelease checks source, keys, root, cache, control plane and host names before the
// work that takes long.
func (a *app) createRelease(ctx context.Context, o createOptions) error {
	o, err := a.fill(o)
	if err != nil {
		return err
	}
	if flake := o.nixFlake(); o.from == "" && flake.Local() {
		if err = refuseSecretKeys(ctx, flake); err != nil {
			return err
		}
	}
	signers, err := a.signers(ctx, o)
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	root, err := a.fleetRoot(ctx, o, signers)
	if err != nil {
		return err
	}
	caches, err := o.caches()
	if err != nil {
		return err
	}
	sequence, previous, err := a.next(ctx, client, fleet.Line(o.line), root, o.after)
	if err != nil {
		return err
	}
	last, err := latest(ctx, client, fleet.Line(o.line))
	if err != nil {
		return err
	}
	w := &work{app: a, o: o, spent: map[string]int64{}}
	entries, source, err := w.entries(ctx, client, root)
	if err != nil {
		return err
	}
	h := o.header(root, source, caches, time.Now())
	h.Sequence, h.PreviousDigest = sequence, previous
	if h.AuditHead, err = a.auditHead(ctx, client); err != nil {
		return err
	}
	out := newCreated(h, entries, w.spent)
	if last != nil {
		if out.Diff, err = diffTo(ctx, client, *last, entries); err != nil {
			return err
		}
	}
	if out.Digest, err = w.finish(ctx, client, root, signers, h, entries); err != nil {
		return err
	}
	if !o.dryRun {
		out.File = o.out
	}
	return a.Print(out, func(w io.Writer) { out.text(w, last != nil) })
}

// finish signs the release and registers it, or writes it to a file; not in a dry
// run.
func (w *work) finish(ctx context.Context, c *api.Client, root fleet.Root, signers []signer.Signer, h fleet.Header, entries []fleet.Entry) (fleet.Digest, error) {
	switch {
	case w.o.dryRun:
		return "", nil
	case w.o.out != "":
		return w.write(ctx, root, signers, h, entries)
	}
	return w.register(ctx, c, root, signers, h, entries)
}

// header is that of the release, without its place in the line and its entries.
func (o createOptions) header(root fleet.Root, source fleet.Source, caches []fleet.Cache, now time.Time) fleet.Header {
	return fleet.Header{
		FleetID: root.FleetID, Line: fleet.Line(o.line), Name: o.name, Source: source, Caches: caches,
		CreatedAt: now.UnixMilli(), Expires: now.Add(o.expires).UnixMilli(),
		Policy: fleet.Policy{ConfirmWindowMs: o.confirm.Milliseconds(), RevertWindowMs: o.revert.Milliseconds()},
	}
}

// needsRoot refuses to sign an older release again without a local root document:
// that of the control plane could name keys of its own.
func (o createOptions) needsRoot(what string) error {
	if o.root != "" {
		return nil
	}
	return fleet.Errorf(fleet.Refused, "%s signs an older release again, and without the fleet's root document nothing shows who signed it", what).
		WithHint("give --root FILE, or set root in %s", projectFile)
}

func (o createOptions) nixFlake() nix.Flake {
	return nix.Flake{Ref: o.flake, Options: o.nixArgs, Workers: o.jobs}
}

func (o createOptions) caches() ([]fleet.Cache, error) {
	if o.cache == "" {
		return nil, fleet.Errorf(fleet.Invalid, "no binary cache is named, so machines could not fetch this release").
			WithHint("give --cache URL and --cache-key NAME:BASE64, or put [cache] into %s", projectFile)
	}
	c := fleet.Cache{URL: o.cache, PublicKeys: o.cacheKey}
	return []fleet.Cache{c}, c.Validate()
}

// signers opens the signers. A release that is not written for others to sign
// needs one.
func (a *app) signers(ctx context.Context, o createOptions) ([]signer.Signer, error) {
	if o.unsigned {
		return nil, nil
	}
	signers, err := a.documents().Signers(ctx, o.keys)
	if err == nil && len(signers) == 0 {
		err = fleet.Errorf(fleet.Invalid, "no key signs the release").
			WithHint("give --sign-key FILE or set NIXFLEET_SIGN_KEY; nixfleet trust init makes keys/release.sec. --unsigned --out FILE is for others to sign")
	}
	return signers, err
}

// fleetRoot returns the root document that the release is checked with. It refuses
// keys that may not sign, and too few of them, before anything is built.
func (a *app) fleetRoot(ctx context.Context, o createOptions, signers []signer.Signer) (fleet.Root, error) {
	root, err := a.documents().Root(ctx, o.root)
	if err != nil {
		return root, err
	}
	keys, threshold := trust.RoleKeys(root, fleet.TrustRoleRelease)
	if err := signer.Check(keys, signers...); err != nil {
		return root, fleet.Errorf(fleet.Refused, "a release of fleet %s: %w", root.FleetID, err).WithHint("%s", fleet.ErrorHint(err))
	}
	if len(signers) < threshold && o.out == "" {
		return root, fleet.Errorf(fleet.Refused, "a release of fleet %s needs %d signatures, %d keys are given", root.FleetID, threshold, len(signers)).
			WithHint("give each signer, or --out FILE for others to sign with nixfleet trust sign")
	}
	return root, nil
}

// next is the place of the next release of a line: its sequence and what it follows.
func (a *app) next(ctx context.Context, c *api.Client, line fleet.Line, root fleet.Root, after string) (fleet.Sequence, fleet.Digest, error) {
	at, err := a.seen()
	if err != nil {
		a.Say("warning: %v", err)
	}
	return at.Next(ctx, c, line, root, after)
}

// latest is the newest release of a line that is registered, or nil.
func latest(ctx context.Context, c *api.Client, line fleet.Line) (*fleet.Release, error) {
	page, err := c.Releases(ctx, fleet.ReleaseFilter{Line: line}, fleet.PageRequest{Limit: 1})
	if err != nil || len(page.Items) == 0 {
		return nil, err
	}
	return &page.Items[0], nil
}

func diffTo(ctx context.Context, c *api.Client, last fleet.Release, entries []fleet.Entry) (*fleet.ReleaseDiff, error) {
	old, err := releaseEntries(ctx, c, last.Digest)
	if err != nil {
		return nil, err
	}
	d := fleet.DiffEntries(last.Digest, "", old, entries)
	return &d, nil
}

// releaseEntries are a release's entries as the control plane tells them, to be
// shown.
func releaseEntries(ctx context.Context, c *api.Client, d fleet.Digest) ([]fleet.Entry, error) {
	r, err := c.Release(ctx, d)
	if err != nil {
		return nil, err
	}
	entries := make([]fleet.Entry, len(r.Entries))
	for i, raw := range r.Entries {
		if err := trust.Decode(raw, fleet.MaxEntryBytes, &entries[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}
