// SPDX-License-Identifier: MIT

// Package documents are the commands that make, show, sign and hand in a fleet's
// signed documents: nixfleet trust.
//
// It never signs what it has not shown, and never goes below a version that was
// seen before.
package documents

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/seen"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Host is the command line that the commands are part of.
type Host struct {
	*command.Line
	Client  func() (*api.Client, error)
	Seen    func() (seen.Place, error)
	Project func() (Project, error)
	Read    func(file string, limit int64) ([]byte, error)
	Release func(ctx context.Context, c *api.Client, word string) (fleet.Release, error)
}

// Project are the settings of nixfleet.toml that count here.
type Project struct {
	Root    string // the root document's file, or ""
	FleetID string // that it has to be of, or ""
	Line    fleet.Line
}

// Command is nixfleet trust.
func Command(h Host) *cobra.Command {
	c := &cobra.Command{
		Use:     "trust",
		Short:   "The keys that a fleet's machines trust, and what they sign",
		Example: "  nixfleet trust init --fleet example.org trust\n  nixfleet trust show",
	}
	c.AddCommand(h.initCmd(), h.showCmd(), h.pinCmd(), h.submitCmd(), h.signCmd(), h.verifyCmd(),
		h.rotateCmd(), h.revokeCmd(), h.timestampCmd(), h.grantCmd())
	return c
}

// Root is the root document that signatures are judged by: the file, else the
// project's, else the control plane's, which must not be older than one seen
// before. It is refused if it is of another fleet than the project.
func (h Host) Root(ctx context.Context, file string) (fleet.Root, error) {
	p, err := h.Project()
	if err != nil {
		return fleet.Root{}, err
	}
	if file == "" {
		file = p.Root
	}
	var root fleet.Root
	if file != "" {
		var envelope []byte
		if envelope, err = h.Read(file, 1<<20); err == nil {
			root, err = trust.PinRoot(envelope)
		}
	} else if root, err = h.pinned(ctx); err == nil {
		h.Say("warning: no root document is named, so the control plane's counts: give --root, or set root in nixfleet.toml")
	}
	if err != nil {
		return root, err
	}
	if p.FleetID != "" && p.FleetID != root.FleetID {
		return root, fleet.Errorf(fleet.Refused, "the root document is of fleet %s, and nixfleet.toml is for fleet %s", root.FleetID, p.FleetID).
			WithHint("is this the right control plane, or the right --root?")
	}
	return root, nil
}

// pinned is the control plane's root document.
func (h Host) pinned(ctx context.Context) (fleet.Root, error) {
	c, err := h.Client()
	if err != nil {
		return fleet.Root{}, err
	}
	doc, err := c.Root(ctx)
	if err != nil {
		return fleet.Root{}, err
	}
	root, err := trust.PinRoot(doc.Envelope)
	if err != nil {
		return root, err
	}
	at, err := h.Seen()
	if err != nil { // such as without a home, in a container
		h.Say("warning: %v", err)
		return root, nil
	}
	return root, at.Saw(root, fleet.TrustRoleRoot, root.Version)
}

// maxFile bounds a file with a signed document: a release has its entries in it.
const maxFile = 256 << 20

// File is a signed document in a file; a release has its entries with it. Its
// signatures may be missing.
type File struct {
	trust.Draft
	Entries [][]byte       // of a release
	Checked *trust.Release // what the entries make, but for signatures
}

// ReadFile reads a document, and recomputes what a release's header says of its
// entries.
func (h Host) ReadFile(name string, now time.Time) (File, error) {
	b, err := h.Read(name, maxFile)
	if err != nil {
		return File{}, err
	}
	var r api.ReleaseRequest
	if err = json.Unmarshal(b, &r); err != nil {
		return File{}, fleet.Errorf(fleet.Invalid, "%s is not a signed document: %w", name, err)
	}
	f := File{Entries: r.Entries}
	if r.Envelope != nil {
		b = r.Envelope
		if f.Checked, err = trust.CheckRelease(r.Envelope, r.Entries, nil, now.UnixMilli()); err != nil {
			return File{}, fleet.Errorf(fleet.ErrorCode(err), "%s: %w", name, err)
		}
	}
	if f.Draft, err = trust.ParseDraft(b); err != nil {
		return File{}, fleet.Errorf(fleet.ErrorCode(err), "%s: %w", name, err)
	}
	if f.Header != nil && f.Checked == nil {
		return File{}, fleet.Errorf(fleet.Invalid, "%s is the header of a release without its entries", name).WithHint("nixfleet release create --out FILE writes both")
	}
	return f, nil
}

// Encode is the text of the file.
func (f File) Encode() ([]byte, error) {
	b := f.Envelope.Encode()
	if f.Header != nil {
		var err error
		if b, err = json.Marshal(api.ReleaseRequest{Envelope: b, Entries: f.Entries}); err != nil {
			return nil, fleet.Errorf(fleet.Internal, "encode release: %w", err)
		}
	}
	return append(b, '\n'), nil
}

// mode is that of a file that is replaced.
func mode(name string) os.FileMode {
	if i, err := os.Stat(name); err == nil {
		return i.Mode().Perm()
	}
	return 0o644
}
