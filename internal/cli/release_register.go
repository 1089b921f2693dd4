// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/signer"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// signed makes the release and adds the signers' signatures.
func signed(ctx context.Context, root fleet.Root, signers []signer.Signer, h fleet.Header, entries []fleet.Entry) (trust.Envelope, [][]byte, error) {
	payload, raw, err := trust.NewRelease(h, entries)
	if err != nil {
		return trust.Envelope{}, nil, err
	}
	keys, _ := trust.RoleKeys(root, fleet.TrustRoleRelease)
	e, err := signer.Sign(ctx, trust.Envelope{PayloadType: fleet.TypeRelease, Payload: payload}, keys, signers...)
	return e, raw, err
}

// write writes the release to a file, for others to sign.
func (w *work) write(ctx context.Context, root fleet.Root, signers []signer.Signer, h fleet.Header, entries []fleet.Entry) (fleet.Digest, error) {
	e, raw, err := signed(ctx, root, signers, h, entries)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(api.ReleaseRequest{Envelope: e.Encode(), Entries: raw})
	if err != nil {
		return "", fmt.Errorf("encode release: %w", err)
	}
	if err := atomicfile.Create(w.o.out, append(text, '\n'), 0o644); err != nil {
		return "", fleet.Errorf(fleet.Invalid, "%w", err)
	}
	return e.Digest(), nil
}

// register signs and registers the release. If another operator registered one
// in the meantime, it is signed again with the next sequence.
func (w *work) register(ctx context.Context, c *api.Client, root fleet.Root, signers []signer.Signer, h fleet.Header, entries []fleet.Entry) (fleet.Digest, error) {
	var digest fleet.Digest
	err := w.step("register", "signing and registering", func() error {
		for try := 1; ; try++ {
			e, raw, err := signed(ctx, root, signers, h, entries)
			if err != nil {
				return err
			}
			checked, err := trust.CheckRelease(e.Encode(), raw, &root, time.Now().UnixMilli())
			if err != nil {
				return err
			}
			digest = checked.Digest
			_, err = c.CreateRelease(ctx, api.ReleaseRequest{Envelope: e.Encode(), Entries: raw})
			if fleet.ErrorCode(err) != fleet.Conflict || try == 3 {
				return err
			}
			next, previous, nerr := w.app.next(ctx, c, h.Line, root, "")
			if nerr != nil || next <= h.Sequence {
				return err
			}
			h.Sequence, h.PreviousDigest = next, previous
		}
	})
	if err != nil {
		return "", err
	}
	w.app.keepHead(trust.Mark{Line: h.Line, Sequence: h.Sequence, Digest: digest})
	return digest, nil
}

// keepHead remembers a release that was registered. That it cannot does not undo
// that.
func (a *app) keepHead(m trust.Mark) {
	at, err := a.seen()
	if err == nil {
		err = at.Keep(m)
	}
	if err != nil {
		a.Say("warning: %v", err)
	}
}

func (a *app) releaseRegisterCmd() *cobra.Command {
	var rootFile string
	c := &cobra.Command{
		Use:   "register FILE",
		Short: "Register a release that was written to a file and signed by several people",
		Long: `Register a release that was written to a file and signed by several people.

The signatures are checked with the fleet's root document, and what the header says of the entries is recomputed, before
anything is sent.`,
		Example: "  nixfleet release register release.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.registerFile(cmd.Context(), argv[0], rootFile)
		},
	}
	c.Flags().StringVar(&rootFile, "root", "", "the fleet's root document (nixfleet.toml: root; else the control plane's)")
	return c
}

func (a *app) registerFile(ctx context.Context, name, rootFile string) error {
	now := time.Now()
	f, err := a.documents().ReadFile(name, now)
	if err != nil {
		return err
	}
	if f.Header == nil {
		return fleet.Errorf(fleet.Invalid, "%s is not a release", name).WithHint("nixfleet trust submit takes other documents")
	}
	root, err := a.documents().Root(ctx, rootFile)
	if err != nil {
		return err
	}
	envelope := f.Envelope.Encode()
	r, err := trust.CheckRelease(envelope, f.Entries, &root, now.UnixMilli())
	if err != nil {
		return fleet.Errorf(fleet.Refused, "%s: %w", name, err).WithHint("nixfleet trust sign %s adds a signature", name)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if _, err := c.CreateRelease(ctx, api.ReleaseRequest{Envelope: envelope, Entries: f.Entries}); err != nil {
		return err
	}
	a.keepHead(trust.Mark{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest})
	out := newCreated(r.Header, r.Entries, map[string]int64{})
	out.Digest = r.Digest
	return a.Print(out, func(w io.Writer) { out.text(w, false) })
}
