// SPDX-License-Identifier: MIT

package documents

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// rotation are the options of `trust rotate`.
type rotation struct {
	add, remove, replace, threshold []string
	years                           int
	output
}

func (h Host) rotateCmd() *cobra.Command {
	var o rotation
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make the next version of the root document: other keys, thresholds or end",
		Long: `Make the next version of the root document: other keys, thresholds or end.

KEY is a file with a public key, or the key itself: NAME:BASE64 as Nix writes it, or a line of ssh-keygen. OLD and a key
to remove are key ids or names that nixfleet trust show lists.

The new version needs signatures up to the thresholds of the root role of the version before and of its own. What
--sign-key does not sign here, other people sign with nixfleet trust sign. Then nixfleet trust submit hands it in, and
it takes the place of root.json in the machines' configuration.`,
		Example: "  nixfleet trust rotate --replace alice-1=alice-2.pub --sign-key root.sec --out root-2.json\n" +
			"  nixfleet trust rotate --add release=bob.pub --threshold release=2 --out root-2.json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.out == "" {
				return command.Usagef("--out FILE is missing: the new root document is also for the machines' configuration")
			}
			return h.rotate(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.add, "add", nil, "ROLE=KEY: give a key to a role: root, release, timestamp, revoker or operator")
	f.StringArrayVar(&o.remove, "remove", nil, "OLD or ROLE=OLD: remove a key, from all of its roles or from one")
	f.StringArrayVar(&o.replace, "replace", nil, "OLD=KEY: put a key in the place of another in all of its roles")
	f.StringArrayVar(&o.threshold, "threshold", nil, "ROLE=N: how many keys of a role must sign; 0 ends the role")
	f.IntVar(&o.years, "years", 0, "years from now until the new version expires (default: as before)")
	o.register(f)
	return c
}

func (h Host) rotate(ctx context.Context, o rotation) error {
	now := time.Now()
	old, err := h.Root(ctx, o.root)
	if err != nil {
		return err
	}
	at, err := h.Seen()
	if err == nil {
		highest, verr := at.Version(old, fleet.TrustRoleRoot)
		if err = verr; err == nil && highest > old.Version {
			err = fleet.Errorf(fleet.Refused, "the root document has version %d, and version %d was seen at the control plane", old.Version, highest).
				WithHint("give the newest one: --root FILE")
		}
	}
	if err != nil && fleet.ErrorCode(err) == fleet.Refused {
		return err // without a control plane, nothing was seen
	}
	change, err := h.change(o, now)
	if err != nil {
		return err
	}
	next, err := trust.NextRoot(old, change, now.UnixMilli())
	if err != nil {
		return err
	}
	payload, err := trust.NewRoot(next)
	if err != nil {
		return err
	}
	if !trust.SameRole(old, next, fleet.TrustRoleRevoker) {
		h.Say("the keys of the role revoker change: when this is pinned, sign the revocation list anew (nixfleet trust revoke --again), then a timestamp")
	}
	return h.finish(ctx, fleet.TypeRoot, payload, old, o.output)
}

// change reads the options.
func (h Host) change(o rotation, now time.Time) (trust.RootChange, error) {
	c := trust.RootChange{Thresholds: map[fleet.TrustRole]int{}}
	if o.years < 0 || o.years > 50 {
		return c, command.Usagef("--years %d must be between 1 and 50", o.years)
	}
	if o.years > 0 {
		c.Expires = now.AddDate(o.years, 0, 0).UnixMilli()
	}
	for _, text := range o.add {
		role, word, ok := strings.Cut(text, "=")
		if !ok || !fleet.TrustRole(role).Valid() {
			return c, command.Usagef("--add %q must be ROLE=KEY", text)
		}
		k, err := h.publicKey(word)
		if err != nil {
			return c, err
		}
		c.Add = append(c.Add, trust.RoleKey{Role: fleet.TrustRole(role), Key: k})
	}
	for _, text := range o.remove {
		ref := trust.KeyRef{Key: text}
		if role, word, ok := strings.Cut(text, "="); ok {
			if ref = (trust.KeyRef{Role: fleet.TrustRole(role), Key: word}); !ref.Role.Valid() {
				return c, command.Usagef("--remove %q must be OLD or ROLE=OLD", text)
			}
		}
		c.Remove = append(c.Remove, ref)
	}
	for _, text := range o.replace {
		old, word, ok := strings.Cut(text, "=")
		if !ok {
			return c, command.Usagef("--replace %q must be OLD=KEY", text)
		}
		k, err := h.publicKey(word)
		if err != nil {
			return c, err
		}
		c.Replace = append(c.Replace, trust.Replacement{Old: old, New: k})
	}
	for _, text := range o.threshold {
		role, word, _ := strings.Cut(text, "=")
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 || !fleet.TrustRole(role).Valid() {
			return c, command.Usagef("--threshold %q must be ROLE=N", text)
		}
		c.Thresholds[fleet.TrustRole(role)] = n
	}
	return c, nil
}
