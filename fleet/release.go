// SPDX-License-Identifier: MIT

package fleet

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// Limits of a release. They bound what an agent or the control plane parses.
const (
	MaxEntryBytes   = 16 << 10  // one entry, as JSON
	MaxHeaderBytes  = 256 << 10 // one header payload
	MaxEntries      = 200_000   // machines in one release
	MaxTags         = 64        // tags of one machine
	MaxCaches       = 8         // caches of one release
	MaxFingerprints = 64        // switch inhibitors of one system
)

// Header is the signed payload of a release.v1 document. All else of the
// release hangs on its Entries.Root. Times are Unix milliseconds.
type Header struct {
	FleetID        string     `json:"fleetId"`
	Line           Line       `json:"line"`
	Sequence       uint64     `json:"sequence"` // rises within its line, from 1
	PreviousDigest Digest     `json:"previousDigest,omitempty"`
	Name           string     `json:"name,omitempty"` // what people call it; no meaning
	CreatedAt      int64      `json:"createdAt"`
	Expires        int64      `json:"expires"`
	Source         Source     `json:"source"`
	Caches         []Cache    `json:"caches"`
	Entries        EntriesRef `json:"entries"`
	Policy         Policy     `json:"policy"`
	AuditHead      *AuditHead `json:"auditHead,omitempty"`
	Crit           []string   `json:"crit,omitempty"` // fields a reader must know, or refuse
}

// Source says what the release was built from. It is for people and evidence;
// nothing is decided by it.
type Source struct {
	Flake       string `json:"flake"`
	Revision    string `json:"revision,omitempty"`
	Dirty       bool   `json:"dirty,omitempty"`
	LockDigest  Digest `json:"lockDigest,omitempty"`
	NixpkgsDate string `json:"nixpkgsDate,omitempty"` // YYYY-MM-DD
}

// Cache is a binary cache that holds the release's closures, and the keys by
// which Nix accepts paths from it.
type Cache struct {
	URL        string   `json:"url"`
	PublicKeys []string `json:"publicKeys"` // as in trusted-public-keys: name:base64
}

// EntriesRef binds the entries to the header: how many there are, and the root
// of the Merkle tree (RFC 6962) over their bytes in order of machine id.
type EntriesRef struct {
	Count int    `json:"count"`
	Root  Digest `json:"root"`
}

// Policy is what a signer fixes for the agents, in milliseconds.
type Policy struct {
	// ConfirmWindowMs is how long a switched machine has to prove that it
	// reaches the network before its watchdog rolls it back.
	ConfirmWindowMs int64 `json:"confirmWindowMs"`
	// RevertWindowMs is how long after activation a revert order is obeyed,
	// and the floor stays at the last good release.
	RevertWindowMs int64 `json:"revertWindowMs"`
}

// Entry is one machine's part of a release. Its JSON bytes are a leaf of the
// tree; they are kept as signed, never encoded again.
type Entry struct {
	ID            MachineID    `json:"id"`
	System        System       `json:"system"`
	StorePath     StorePath    `json:"storePath"`
	NarHash       NarHash      `json:"narHash"`
	ClosureSize   int64        `json:"closureSize"` // bytes, sum of NAR sizes
	ClosureDigest Digest       `json:"closureDigest"`
	Tags          []Tag        `json:"tags,omitempty"`
	Fingerprints  Fingerprints `json:"fingerprints"`
	NextLine      Line         `json:"nextLine,omitempty"` // moves the machine to another line
	Detach        bool         `json:"detach,omitempty"`   // the system has no agent, on purpose
	Crit          []string     `json:"crit,omitempty"`
}

// Fingerprints tell whether a system needs a reboot: they differ between
// systems whose kernel, initrd, parameters or switch inhibitors differ.
type Fingerprints struct {
	Kernel     string            `json:"kernel,omitempty"`
	Initrd     string            `json:"initrd,omitempty"`
	Parameters string            `json:"parameters,omitempty"`
	Inhibitors map[string]string `json:"inhibitors,omitempty"`
}

// AuditHead is a checkpoint of the control plane's audit chain as its
// operator's CLI last saw it.
type AuditHead struct {
	Size int64  `json:"size"`
	Head Digest `json:"head"`
}

// Validate reports the first thing wrong with h; the code is Invalid. It says
// nothing about signatures or time.
func (h *Header) Validate() error {
	switch {
	case !ValidFleetID(h.FleetID):
		return Errorf(Invalid, "release: fleetId %q must be 1 to 63 letters, digits, '-', '_' or '.'", clip(h.FleetID, 80))
	case !h.Line.Valid():
		return Errorf(Invalid, "release: line %q must have the syntax of a host name", clip(string(h.Line), 80))
	case h.Sequence == 0:
		return Errorf(Invalid, "release: sequence must be at least 1")
	case h.Sequence == 1 && h.PreviousDigest != "":
		return Errorf(Invalid, "release: the first release of a line has no previousDigest")
	case h.PreviousDigest != "" && !h.PreviousDigest.Valid():
		return Errorf(Invalid, "release: previousDigest %q is not a digest", clip(string(h.PreviousDigest), 100))
	case len(h.Name) > 120 || strings.ContainsFunc(h.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Errorf(Invalid, "release: name must be at most 120 printable bytes")
	case h.CreatedAt <= 0 || h.Expires <= h.CreatedAt:
		return Errorf(Invalid, "release: expires must be later than createdAt, in Unix milliseconds")
	case h.Entries.Count < 1 || h.Entries.Count > MaxEntries:
		return Errorf(Invalid, "release: %d entries; a release has 1 to %d", h.Entries.Count, MaxEntries)
	case !h.Entries.Root.Valid():
		return Errorf(Invalid, "release: entries.root is not a digest")
	case h.Policy.ConfirmWindowMs < 1000 || h.Policy.ConfirmWindowMs > 24*3600*1000:
		return Errorf(Invalid, "release: policy.confirmWindowMs must be between 1 second and 24 hours")
	case h.Policy.RevertWindowMs < 0 || h.Policy.RevertWindowMs > 30*24*3600*1000:
		return Errorf(Invalid, "release: policy.revertWindowMs must be between 0 and 30 days")
	case len(h.Caches) > MaxCaches:
		return Errorf(Invalid, "release: at most %d caches", MaxCaches)
	}
	for _, c := range h.Caches {
		if err := c.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate reports the first thing wrong with c; the code is Invalid.
func (c Cache) Validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || !slices.Contains([]string{"http", "https", "file", "s3", "ssh", "ssh-ng"}, u.Scheme) || len(c.URL) > 2048 {
		return Errorf(Invalid, "cache %q: want a URL that nix copy takes: https, http, s3, ssh, ssh-ng or file", clip(c.URL, 120))
	}
	if len(c.PublicKeys) == 0 || len(c.PublicKeys) > 16 {
		return Errorf(Invalid, "cache %q: want 1 to 16 public keys", clip(c.URL, 120))
	}
	for _, k := range c.PublicKeys {
		name, key, ok := strings.Cut(k, ":")
		if !ok || name == "" || len(key) != 44 || strings.ContainsAny(k, " \t\r\n") {
			return Errorf(Invalid, "cache %q: public key %q is not name:base64 as in trusted-public-keys", clip(c.URL, 120), clip(k, 80))
		}
	}
	return nil
}

// Validate reports the first thing wrong with e; the code is Invalid.
func (e *Entry) Validate() error {
	switch {
	case !e.ID.Valid():
		return Errorf(Invalid, "entry: %q is not a machine id", clip(string(e.ID), 80))
	case !e.System.Valid():
		return Errorf(Invalid, "entry %s: system %q is not one of %v", e.ID, clip(string(e.System), 40), Systems)
	case !e.StorePath.Valid():
		return Errorf(Invalid, "entry %s: storePath %q is not a store path", e.ID, clip(string(e.StorePath), 250))
	case !e.NarHash.Valid():
		return Errorf(Invalid, "entry %s: narHash %q is not sha256 in Nix's base 32", e.ID, clip(string(e.NarHash), 80))
	case e.ClosureSize < 0:
		return Errorf(Invalid, "entry %s: closureSize is negative", e.ID)
	case !e.ClosureDigest.Valid():
		return Errorf(Invalid, "entry %s: closureDigest is not a digest", e.ID)
	case e.NextLine != "" && !e.NextLine.Valid():
		return Errorf(Invalid, "entry %s: nextLine %q is not a line", e.ID, clip(string(e.NextLine), 80))
	case len(e.Fingerprints.Inhibitors) > MaxFingerprints:
		return Errorf(Invalid, "entry %s: more than %d inhibitors", e.ID, MaxFingerprints)
	}
	return validTags("entry "+string(e.ID), e.Tags)
}

func validTags(where string, tags []Tag) error {
	if len(tags) > MaxTags {
		return Errorf(Invalid, "%s: more than %d tags", where, MaxTags)
	}
	for i, t := range tags {
		if !t.Valid() {
			return Errorf(Invalid, "%s: %q is not a tag", where, clip(string(t), 80))
		}
		if i > 0 && tags[i-1] >= t {
			return Errorf(Invalid, "%s: tags must be sorted and unique", where)
		}
	}
	return nil
}

// ValidFleetID reports whether s can name a fleet: 1 to 63 letters, digits,
// '-', '_' or '.'.
func ValidFleetID(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// ClosurePath is one line of a closure: a path and the hash of its archive.
type ClosurePath struct {
	Path    StorePath `json:"path"`
	NarHash NarHash   `json:"narHash"`
	NarSize int64     `json:"narSize"` // bytes
}

// ClosureDigest returns the digest over the lines `path narHash\n`, sorted by
// path.
func ClosureDigest(paths []ClosurePath) Digest {
	sorted := slices.SortedFunc(slices.Values(paths), func(a, b ClosurePath) int { return cmp.Compare(a.Path, b.Path) })
	var b strings.Builder
	for _, p := range sorted {
		b.WriteString(string(p.Path) + " " + string(p.NarHash) + "\n")
	}
	return SHA256([]byte(b.String()))
}

// Release is what the control plane knows of a registered release, for lists.
// Times are Unix milliseconds.
type Release struct {
	Digest       Digest `json:"digest"`
	Header       Header `json:"header"`
	RegisteredAt int64  `json:"registeredAt"`
	RegisteredBy string `json:"registeredBy"`
}

// ReleaseDiff compares two releases machine by machine; each list is sorted.
type ReleaseDiff struct {
	From      Digest        `json:"from"`
	To        Digest        `json:"to"`
	Added     []MachineID   `json:"added"`
	Removed   []MachineID   `json:"removed"`
	Changed   []EntryChange `json:"changed"`
	Unchanged []MachineID   `json:"unchanged"`
}

// EntryChange is a machine whose system differs between two releases.
type EntryChange struct {
	ID        MachineID `json:"id"`
	From      StorePath `json:"from"`
	To        StorePath `json:"to"`
	SizeDelta int64     `json:"sizeDelta"` // bytes of closure, to less from
	Reboot    bool      `json:"reboot"`    // fingerprints differ
}

// DiffEntries compares two entry lists.
func DiffEntries(from, to Digest, a, b []Entry) ReleaseDiff {
	d := ReleaseDiff{From: from, To: to, Added: []MachineID{}, Removed: []MachineID{}, Changed: []EntryChange{}, Unchanged: []MachineID{}}
	old := make(map[MachineID]Entry, len(a))
	for _, e := range a {
		old[e.ID] = e
	}
	for _, e := range b {
		o, ok := old[e.ID]
		switch {
		case !ok:
			d.Added = append(d.Added, e.ID)
		case o.StorePath != e.StorePath:
			d.Changed = append(d.Changed, EntryChange{
				ID: e.ID, From: o.StorePath, To: e.StorePath,
				SizeDelta: e.ClosureSize - o.ClosureSize, Reboot: !o.Fingerprints.Equal(e.Fingerprints),
			})
		default:
			d.Unchanged = append(d.Unchanged, e.ID)
		}
		delete(old, e.ID)
	}
	for id := range old {
		d.Removed = append(d.Removed, id)
	}
	slices.Sort(d.Added)
	slices.Sort(d.Removed)
	slices.Sort(d.Unchanged)
	slices.SortFunc(d.Changed, func(x, y EntryChange) int { return cmp.Compare(x.ID, y.ID) })
	return d
}

// Equal reports whether two systems have the same fingerprints, so that going
// from one to the other needs no reboot.
func (f Fingerprints) Equal(g Fingerprints) bool {
	if f.Kernel != g.Kernel || f.Initrd != g.Initrd || f.Parameters != g.Parameters || len(f.Inhibitors) != len(g.Inhibitors) {
		return false
	}
	for k, v := range f.Inhibitors {
		if w, ok := g.Inhibitors[k]; !ok || v != w {
			return false
		}
	}
	return true
}
