// SPDX-License-Identifier: MIT

package documents

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/cli/seen"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/signer"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// output is who signs a document that is made, and where it goes.
type output struct {
	keys Keys
	root string
	out  string
}

func (o *output) register(f *pflag.FlagSet) {
	o.keys.Register(f)
	f.StringVar(&o.root, "root", "", "the root document in force (nixfleet.toml: root; else the control plane's)")
	f.StringVar(&o.out, "out", "", "write the document to a new file, for others to sign, and submit nothing")
}

// finish signs a payload and writes it to a file, or hands it in if no signature is
// missing.
func (h Host) finish(ctx context.Context, kind string, payload []byte, root fleet.Root, o output) error {
	if kind != fleet.TypeRoot && root.Expires <= time.Now().UnixMilli() {
		return fleet.Errorf(fleet.Refused, "root version %d has expired, so nothing that it judges is accepted", root.Version).
			WithHint("nixfleet trust rotate --years N makes the next version")
	}
	d, err := trust.ParseDraft(trust.Envelope{PayloadType: kind, Payload: payload}.Encode())
	if err != nil {
		return err
	}
	allowed, err := d.Keys(&root)
	if err != nil {
		return err
	}
	signers, err := h.Signers(ctx, o.keys)
	if err != nil {
		return err
	}
	if !o.keys.given() { // the environment's key signs releases, and this if it may
		signers = slices.DeleteFunc(signers, func(s signer.Signer) bool { return signer.Check(allowed, s) != nil })
	}
	if len(signers) == 0 && o.out == "" {
		return errNoSigner()
	}
	if d.Envelope, err = signer.Sign(ctx, d.Envelope, allowed, signers...); err != nil {
		return err
	}
	f := File{Draft: d}
	out, err := judge(f, &root)
	if err != nil {
		return err
	}
	for _, line := range out.Says {
		h.Say("%s", line)
	}
	switch {
	case o.out != "":
		text, err := f.Encode()
		if err != nil {
			return err
		}
		if err := atomicfile.Create(o.out, text, 0o644); err != nil {
			return fleet.Errorf(fleet.Invalid, "%w", err)
		}
		out.File = o.out
	case !out.Complete:
		return fleet.Errorf(fleet.Refused, "signatures are missing: %s", strings.Join(quorumLines(out.Quorums, root), "; ")).
			WithHint("give more signers, or --out FILE for others to sign with nixfleet trust sign")
	default:
		if err := h.handIn(ctx, f, root); err != nil {
			return err
		}
		out.Submitted = true
	}
	return h.Print(out, func(w io.Writer) { out.text(w, f, &root) })
}

// handIn submits a document and keeps its version.
func (h Host) handIn(ctx context.Context, f File, root fleet.Root) error {
	c, err := h.Client()
	if err != nil {
		return err
	}
	if err := submit(ctx, c, f.Draft, f.Envelope.Encode()); err != nil {
		return err
	}
	if v := f.version(); v > 0 {
		h.saw(root, f.Role(), v)
	}
	if f.Revocations != nil {
		at, err := h.Seen()
		if err == nil {
			err = at.KeepRevocations(*f.Revocations)
		}
		if err != nil {
			h.Say("warning: %v", err) // the control plane has the list
		}
	}
	return nil
}

// timestamp is the control plane's, verified; nil if there is none. It must not be
// older than one seen before.
func (h Host) timestamp(ctx context.Context, c *api.Client, root fleet.Root) (*fleet.Timestamp, seen.Place, error) {
	at, err := h.Seen()
	if err != nil {
		return nil, at, err
	}
	doc, err := c.Timestamp(ctx)
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	t, err := trust.ParseTimestamp(doc.Envelope, root)
	if err != nil {
		return nil, at, err
	}
	return &t, at, at.Saw(root, fleet.TrustRoleTimestamp, t.Version)
}

// revocations are what the control plane's list revokes, and what was seen revoked
// before; digest is that of the control plane's list, if the root document's keys
// have signed it. It must not be older than one seen before. What it revokes is
// there too if others have signed it, such as keys that have lost the role;
// unverified says so.
func (h Host) revocations(ctx context.Context, c *api.Client, root fleet.Root) (all fleet.Revocations, digest fleet.Digest, unverified bool, err error) {
	at, err := h.Seen()
	if err != nil {
		return all, "", false, err
	}
	if all, err = at.Revocations(); err != nil {
		return all, "", false, err
	}
	doc, err := c.Revocations(ctx)
	if fleet.ErrorCode(err) == fleet.NotFound {
		if len(all.Releases)+len(all.MinSequence)+len(all.Certificates) > 0 {
			h.Say("warning: the control plane has no revocation list, and one was seen before")
		}
		return all, "", false, nil
	}
	if err != nil {
		return all, "", false, err
	}
	r, digest, err := trust.ParseRevocations(doc.Envelope, root)
	if err == nil {
		if err = at.Saw(root, fleet.TrustRoleRevoker, r.Version); err != nil {
			return all, "", false, err
		}
		return trust.MergeRevocations(all, r), digest, false, at.KeepRevocations(r)
	}
	d, derr := trust.ParseDraft(doc.Envelope)
	if derr != nil || d.Revocations == nil || d.FleetID() != root.FleetID {
		return all, "", false, err
	}
	h.Say("warning: the revocation list is not signed as root version %d asks: %v", root.Version, err)
	return trust.MergeRevocations(all, *d.Revocations), "", true, nil
}

// revocation are the options of `trust revoke`.
type revocation struct {
	releases, minimum, certificates []string
	again, yes                      bool
	output
}

func (h Host) revokeCmd() *cobra.Command {
	var o revocation
	c := &cobra.Command{
		Use:   "revoke",
		Short: "Say what no machine may accept any more: releases, sequences below a minimum, certificates",
		Long: `Say what no machine may accept any more: releases, sequences below a minimum, certificates.

It adds to the control plane's list and to what was seen revoked before; nothing is taken off it. A machine that runs a
revoked release keeps it until it gets another one. When the keys of the role revoker have changed, --again has the new
ones sign the list, after a yes, since only you can tell whether it is the old one; a timestamp that names it comes next.`,
		Example: "  nixfleet trust revoke --release 4f2a --sign-key root.sec\n  nixfleet trust revoke --min-sequence main=42 --sign-key root.sec",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.releases)+len(o.minimum)+len(o.certificates) == 0 && !o.again {
				return command.Usagef("nothing to revoke: give --release, --min-sequence or --certificate, or --again")
			}
			return h.revoke(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.releases, "release", nil, "a release: a digest, the first digits of one, a name or latest")
	f.StringArrayVar(&o.minimum, "min-sequence", nil, "LINE=N: every release of a line below sequence N")
	f.StringArrayVar(&o.certificates, "certificate", nil, "serial number of a machine's certificate, lower-case hex")
	f.BoolVar(&o.again, "again", false, "sign the list again, with nothing new, also one that others have signed")
	f.BoolVar(&o.yes, "yes", false, "with --again: sign what others have signed without asking")
	o.register(f)
	return c
}

func (h Host) revoke(ctx context.Context, o revocation) error {
	root, err := h.Root(ctx, o.root)
	if err != nil {
		return err
	}
	c, err := h.Client()
	if err != nil {
		return err
	}
	r, _, unverified, err := h.revocations(ctx, c, root)
	if err != nil {
		return err
	}
	if unverified {
		if err = h.takeOver(r, o); err != nil {
			return err
		}
	}
	at, err := h.Seen()
	if err != nil {
		return err
	}
	if err = h.extend(ctx, c, o, &r); err != nil {
		return err
	}
	was, err := at.Version(root, fleet.TrustRoleRevoker)
	if err != nil {
		return err
	}
	r.FleetID, r.Version, r.SignedAt = root.FleetID, was+1, time.Now().UnixMilli()
	payload, err := trust.NewRevocations(r)
	if err != nil {
		return err
	}
	return h.finish(ctx, fleet.TypeRevocations, payload, root, o.output)
}

// takeOver asks before a list is signed that may be anybody's.
func (h Host) takeOver(r fleet.Revocations, o revocation) error {
	if !o.again {
		return fleet.Errorf(fleet.Refused, "the control plane's revocation list is signed by others").
			WithHint("if the keys of the role revoker have changed, nixfleet trust revoke --again shows the list and signs it anew")
	}
	for _, line := range describeRevocations(r) {
		h.Say("%s", line)
	}
	if !o.yes && !h.confirm() {
		return fleet.Errorf(fleet.Invalid, "nothing was signed").WithHint("answer yes, or give --yes")
	}
	return nil
}

// extend adds what the options name to a list.
func (h Host) extend(ctx context.Context, c *api.Client, o revocation, r *fleet.Revocations) error {
	for _, word := range o.releases {
		release, err := h.Release(ctx, c, word)
		if err != nil {
			return err
		}
		if !slices.Contains(r.Releases, release.Digest) {
			r.Releases = append(r.Releases, release.Digest)
		}
	}
	for _, text := range o.minimum {
		word, number, _ := strings.Cut(text, "=")
		line := fleet.Line(word)
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil || !line.Valid() {
			return command.Usagef("--min-sequence %q must be LINE=N", text)
		}
		if n < r.MinSequence[line] {
			return fleet.Errorf(fleet.Refused, "line %s: everything below sequence %d is revoked already; that is not lowered to %d", line, r.MinSequence[line], n)
		}
		if r.MinSequence == nil {
			r.MinSequence = map[fleet.Line]fleet.Sequence{}
		}
		r.MinSequence[line] = n
	}
	for _, serial := range o.certificates {
		if !slices.Contains(r.Certificates, serial) {
			r.Certificates = append(r.Certificates, serial)
		}
	}
	return nil
}

// stamp are the options of `trust timestamp`.
type stamp struct {
	life time.Duration
	output
}

func (h Host) timestampCmd() *cobra.Command {
	var o stamp
	c := &cobra.Command{
		Use:   "timestamp",
		Short: "Say which releases and revocations are the newest, and for how long that holds",
		Long: `Say which releases and revocations are the newest, and for how long that holds.

A fleet whose root document has the timestamp role accepts nothing new without a timestamp that is valid, so make the
next one before the last has expired: a timer does it. The newest release of each line is verified with the root
document, and refused if a newer one was seen before.`,
		Example: "  nixfleet trust timestamp --for 168h --sign-key timestamp.sec",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.life < time.Second || o.life > 366*24*time.Hour {
				return command.Usagef("--for %s must be between 1s and 8784h", o.life)
			}
			return h.makeTimestamp(cmd.Context(), o)
		},
	}
	c.Flags().DurationVar(&o.life, "for", 7*24*time.Hour, "how long it is valid")
	o.register(c.Flags())
	return c
}

func (h Host) makeTimestamp(ctx context.Context, o stamp) error {
	root, err := h.Root(ctx, o.root)
	if err != nil {
		return err
	}
	if _, ok := root.Roles[fleet.TrustRoleTimestamp]; !ok {
		return fleet.Errorf(fleet.Refused, "root version %d has no role timestamp, so no machine asks for one", root.Version).
			WithHint("nixfleet trust rotate --add timestamp=KEY gives the role a key")
	}
	c, err := h.Client()
	if err != nil {
		return err
	}
	before, at, err := h.timestamp(ctx, c, root)
	if err != nil {
		return err
	}
	list, revocations, _, err := h.revocations(ctx, c, root)
	if err != nil {
		return err
	}
	if revocations == "" && len(list.Releases)+len(list.MinSequence)+len(list.Certificates) > 0 {
		return fleet.Errorf(fleet.Refused, "the control plane has no revocation list by the keys of root version %d, so a timestamp cannot name it", root.Version).
			WithHint("nixfleet trust revoke --again signs the list anew")
	}
	lines, err := h.lines(ctx, c, at, root)
	if err != nil {
		return err
	}
	version, err := at.Version(root, fleet.TrustRoleTimestamp)
	if err != nil {
		return err
	}
	if before != nil {
		for l, n := range before.Lines {
			lines[l] = max(lines[l], n)
		}
	}
	now := time.Now()
	payload, err := trust.NewTimestamp(fleet.Timestamp{
		FleetID: root.FleetID, Version: version + 1, SignedAt: now.UnixMilli(), Expires: now.Add(o.life).UnixMilli(),
		Revocations: revocations, Lines: lines,
	})
	if err != nil {
		return err
	}
	return h.finish(ctx, fleet.TypeTimestamp, payload, root, o.output)
}

// lines are the highest sequences that were verified. A line whose newest release
// was signed by keys that have lost their role has the one that was verified
// before, if there is one.
func (h Host) lines(ctx context.Context, c *api.Client, at seen.Place, root fleet.Root) (map[fleet.Line]fleet.Sequence, error) {
	heads, err := at.Heads()
	if err != nil {
		return nil, err
	}
	out := map[fleet.Line]fleet.Sequence{}
	for l, m := range heads {
		out[l] = m.Sequence
	}
	for l, err := range api.All(ctx, c.Lines) {
		if err != nil {
			return nil, err
		}
		_, head, err := at.Newest(ctx, c, l.Line, root)
		switch {
		case trust.ReasonOf(err) != "":
			h.Say("warning: line %s: %v", l.Line, err)
		case err != nil:
			return nil, err
		default:
			out[l.Line] = max(out[l.Line], head.Sequence)
		}
	}
	return out, nil
}
