// SPDX-License-Identifier: MIT

package documents

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/signer"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// judged is the result of `trust sign`, `trust verify` and what makes a document.
type judged struct {
	Kind      string         `json:"kind"` // the payload type
	FleetID   string         `json:"fleetId"`
	Version   uint64         `json:"version,omitempty"` // a release's is its sequence
	Digest    fleet.Digest   `json:"digest"`
	Expires   int64          `json:"expires,omitempty"` // Unix milliseconds
	File      string         `json:"file,omitempty"`
	Submitted bool           `json:"submitted,omitempty"` // the control plane has taken it
	Complete  bool           `json:"complete"`            // no signature is missing
	Quorums   []trust.Quorum `json:"quorums"`
	Says      []string       `json:"says"` // in plain words
}

func judge(f File, root *fleet.Root) (judged, error) {
	quorums, err := f.Quorums(root)
	if err != nil {
		return judged{}, err
	}
	_, expires := f.Life()
	return judged{
		Kind: f.Envelope.PayloadType, FleetID: f.FleetID(), Version: f.version(), Digest: f.Envelope.Digest(), Expires: expires,
		Complete: !slices.ContainsFunc(quorums, func(q trust.Quorum) bool { return !q.Met() }),
		Quorums:  quorums, Says: f.Describe(root),
	}, nil
}

func (f File) version() uint64 {
	switch {
	case f.Root != nil:
		return f.Root.Version
	case f.Timestamp != nil:
		return f.Timestamp.Version
	case f.Revocations != nil:
		return f.Revocations.Version
	case f.Header != nil:
		return f.Header.Sequence
	}
	return 0 // a grant
}

// judgeRoot is the root document that a file's signatures are judged by; nil for
// a first root document.
func (h Host) judgeRoot(ctx context.Context, f File, file string) (*fleet.Root, error) {
	if f.Root != nil && f.Root.Version == 1 {
		return nil, nil
	}
	root, err := h.Root(ctx, file)
	return &root, err
}

func (h Host) signCmd() *cobra.Command {
	var keys Keys
	var rootFile string
	var yes bool
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add a signature to a document or a release that several people sign",
		Long: `Add a signature to a document or a release that several people sign.

It shows what the file says in plain words, as it was recomputed from the file itself, and signs after a yes. The file
is replaced by one with the signature. A key that has signed already does not count twice.`,
		Example: "  nixfleet trust sign --sign-agent alice@example.org release.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if argv[0] == "-" {
				return command.Usagef("FILE is replaced by one with the signature, so it cannot be standard input")
			}
			return h.sign(cmd.Context(), argv[0], rootFile, keys, yes)
		},
	}
	keys.Register(c.Flags())
	c.Flags().StringVar(&rootFile, "root", "", "the root document in force (nixfleet.toml: root; else the control plane's)")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return c
}

func (h Host) sign(ctx context.Context, name, rootFile string, keys Keys, yes bool) error {
	now := time.Now()
	f, err := h.ReadFile(name, now)
	if err != nil {
		return err
	}
	if _, expires := f.Life(); expires != 0 && expires <= now.UnixMilli() {
		return fleet.Errorf(fleet.Refused, "%s expired on %s", name, view.Date(expires))
	}
	root, err := h.judgeRoot(ctx, f, rootFile)
	if err != nil {
		return err
	}
	signers, err := h.Signers(ctx, keys)
	if err != nil {
		return err
	}
	if len(signers) == 0 {
		return errNoSigner()
	}
	allowed, err := f.Keys(root)
	if err != nil {
		return err
	}
	if err = signer.Check(allowed, signers...); err != nil {
		return err
	}
	for _, line := range f.Describe(root) {
		h.Say("%s", line)
	}
	if !yes && !h.confirm() {
		return fleet.Errorf(fleet.Invalid, "nothing was signed").WithHint("answer yes, or give --yes")
	}
	before := len(f.Envelope.Signatures)
	if f.Envelope, err = signer.Sign(ctx, f.Envelope, allowed, signers...); err != nil {
		return err
	}
	if len(f.Envelope.Signatures) == before {
		h.Say("this key had signed already; it counts once")
	}
	return h.keep(f, name, root)
}

// keep replaces a file, and says who has signed.
func (h Host) keep(f File, name string, root *fleet.Root) error {
	text, err := f.Encode()
	if err != nil {
		return err
	}
	out, err := judge(f, root)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(name, text, mode(name)); err != nil {
		return fleet.Errorf(fleet.Invalid, "%w", err)
	}
	out.File = name
	return h.Print(out, func(w io.Writer) { out.text(w, f, root) })
}

func errNoSigner() error {
	return fleet.Errorf(fleet.Invalid, "no key signs").WithHint("give --sign-key FILE, --sign-agent KEY or --sign-cmd CMD, or set NIXFLEET_SIGN_KEY")
}

// confirm asks on stderr and reads the answer from stdin.
func (h Host) confirm() bool {
	fmt.Fprint(h.Stderr, "sign this? [yes/no] ")
	line, _ := bufio.NewReader(io.LimitReader(h.Stdin, 100)).ReadString('\n') // no answer is no
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "yes" || answer == "y"
}

// text says who has signed, and what to do next.
func (j judged) text(w io.Writer, f File, root *fleet.Root) {
	var known []fleet.Root
	for _, r := range []*fleet.Root{root, f.Root} {
		if r != nil {
			known = append(known, *r)
		}
	}
	for _, l := range quorumLines(j.Quorums, known...) {
		fmt.Fprintln(w, l)
	}
	next := "nixfleet trust submit"
	if f.Header != nil {
		next = "nixfleet release register"
	}
	switch {
	case j.Submitted:
		fmt.Fprintln(w, "the control plane has it, and passes it on to the machines")
	case j.Complete && j.File != "":
		fmt.Fprintf(w, "no signature is missing: %s %s\n", next, j.File)
	case j.File != "":
		fmt.Fprintf(w, "signatures are missing: nixfleet trust sign %s\n", j.File)
	}
}

func (h Host) verifyCmd() *cobra.Command {
	var rootFile string
	c := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check a signed document or release as a machine would, and say what it does",
		Long: `Check a signed document or release as a machine would, and say what it does.

Several root documents are a chain, oldest first, after the one in force. A document that lacks signatures or has
expired is refused.`,
		Example: "  nixfleet trust verify --root trust/root.json root-2.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return h.verify(cmd.Context(), argv, rootFile)
		},
	}
	c.Flags().StringVar(&rootFile, "root", "", "the root document in force (nixfleet.toml: root; else the control plane's)")
	return c
}

func (h Host) verify(ctx context.Context, argv []string, rootFile string) error {
	now := time.Now()
	var out []judged
	var files []File
	var roots []*fleet.Root
	var root *fleet.Root
	for _, name := range argv {
		f, err := h.ReadFile(name, now)
		if err != nil {
			return err
		}
		if root == nil {
			if root, err = h.judgeRoot(ctx, f, rootFile); err != nil {
				return err
			}
		}
		j, err := judge(f, root)
		if err != nil {
			return fleet.Errorf(fleet.ErrorCode(err), "%s: %w", name, err)
		}
		if err := f.verify(root, now); err != nil {
			return fleet.Errorf(fleet.ErrorCode(err), "%s: %w", name, err)
		}
		j.File = name
		out, files, roots = append(out, j), append(files, f), append(roots, root)
		if f.Root != nil {
			root = f.Root
		}
	}
	return h.Print(out, func(w io.Writer) {
		for i, j := range out {
			fmt.Fprintf(w, "%s\n", j.File)
			for _, l := range j.Says {
				fmt.Fprintln(w, l)
			}
			j.File = ""
			j.text(w, files[i], roots[i])
			fmt.Fprintln(w, "good")
		}
	})
}

// verify judges a document as a machine would that has root in force.
func (f File) verify(root *fleet.Root, now time.Time) error {
	envelope, ms := f.Envelope.Encode(), now.UnixMilli()
	var err error
	switch {
	case f.Root != nil && root == nil:
		_, err = trust.PinRoot(envelope)
	case f.Root != nil:
		_, err = trust.AdvanceRoot(*root, ms, envelope)
	case f.Header != nil:
		_, err = trust.CheckRelease(envelope, f.Entries, root, ms)
	case f.Timestamp != nil:
		_, err = trust.ParseTimestamp(envelope, *root)
	case f.Revocations != nil:
		_, _, err = trust.ParseRevocations(envelope, *root)
	case f.Grant != nil:
		_, err = trust.ParseGrant(envelope, *root)
	}
	if err != nil {
		return err
	}
	if _, expires := f.Life(); expires != 0 && expires <= ms {
		return fleet.Errorf(fleet.Refused, "expired on %s", view.Date(expires))
	}
	return nil
}
