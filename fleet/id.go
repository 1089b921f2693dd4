// SPDX-License-Identifier: MIT

package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"
)

// MachineID names one machine of the fleet: its host name, lower case letters,
// digits and '-', neither first nor last, 1 to 63 bytes (RFC 1123 label).
type MachineID string

// ParseMachineID checks s. The error's code is Invalid.
func ParseMachineID(s string) (MachineID, error) {
	if m := MachineID(s); m.Valid() {
		return m, nil
	}
	return "", Errorf(Invalid, "%q is not a machine id", clip(s, 80)).
		WithHint("a machine id is a host name: lower case letters, digits and '-', at most 63")
}

// Valid reports whether m is a machine id.
func (m MachineID) Valid() bool { return validLabel(string(m)) }

// Line names a release train: `main`, `staging`. It has the syntax of a
// machine id.
type Line string

// Valid reports whether l is the name of a line.
func (l Line) Valid() bool { return validLabel(string(l)) }

func validLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Tag is a label of machines, such as `web` or `site/paris`: letters, digits
// and `-_.:/`, 1 to 63 bytes, beginning with a letter or digit.
type Tag string

// Valid reports whether t is a tag.
func (t Tag) Valid() bool {
	if len(t) == 0 || len(t) > 63 {
		return false
	}
	for i := range len(t) {
		c := t[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("-_.:/", rune(c))) {
			return false
		}
	}
	return true
}

// Digest is `sha256:` and 64 lower-case hex digits.
type Digest string

// SHA256 returns the digest of b.
func SHA256(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(s[:]))
}

// ParseDigest checks s. The error's code is Invalid.
func ParseDigest(s string) (Digest, error) {
	if d := Digest(s); d.Valid() {
		return d, nil
	}
	return "", Errorf(Invalid, "%q is not a digest", clip(s, 100)).
		WithHint("a digest is sha256: and 64 lower-case hex digits; nixfleet release list shows them")
}

// Valid reports whether d is a digest.
func (d Digest) Valid() bool {
	h, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(h) != 64 {
		return false
	}
	for i := range len(h) {
		if !strings.ContainsRune("0123456789abcdef", rune(h[i])) {
			return false
		}
	}
	return true
}

// Short returns the first 12 hex digits, for people.
func (d Digest) Short() string {
	h := strings.TrimPrefix(string(d), "sha256:")
	return h[:min(12, len(h))]
}

// StoreDir is where Nix keeps its store.
const StoreDir = "/nix/store"

// StorePath is an absolute path directly in the Nix store:
// /nix/store/<32 characters of Nix's base 32>-<name>. Source: Nix manual,
// "Store path".
type StorePath string

// nixBase32 is Nix's alphabet: no e, o, u, t.
const nixBase32 = "0123456789abcdfghijklmnpqrsvwxyz"

// ParseStorePath checks s. The error's code is Invalid.
func ParseStorePath(s string) (StorePath, error) {
	if p := StorePath(s); p.Valid() {
		return p, nil
	}
	return "", Errorf(Invalid, "%q is not a store path", clip(s, 250))
}

// Valid reports whether p is a store path, and nothing below or above one.
func (p StorePath) Valid() bool {
	base, ok := strings.CutPrefix(string(p), StoreDir+"/")
	if !ok || len(base) < 34 || len(base) > 33+211 || base[32] != '-' || path.Clean(string(p)) != string(p) {
		return false
	}
	for i := range 32 {
		if !strings.ContainsRune(nixBase32, rune(base[i])) {
			return false
		}
	}
	for i := 33; i < len(base); i++ {
		c := base[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && !strings.ContainsRune("+-._?=", rune(c)) {
			return false
		}
	}
	return base[33] != '.'
}

// Base returns the path's name with its hash.
func (p StorePath) Base() string { return strings.TrimPrefix(string(p), StoreDir+"/") }

// NarHash is the hash of a path's Nix archive, `sha256:` and 52 characters of
// Nix's base 32, as `nix-store --query --hash` prints it.
type NarHash string

// Valid reports whether h is a NAR hash in Nix's base 32.
func (h NarHash) Valid() bool {
	b, ok := strings.CutPrefix(string(h), "sha256:")
	if !ok || len(b) != 52 {
		return false
	}
	for i := range len(b) {
		if !strings.ContainsRune(nixBase32, rune(b[i])) {
			return false
		}
	}
	return true
}

// System is a Nix platform. NixFleet manages the four in Systems.
type System string

// Systems lists the platforms that NixFleet manages.
var Systems = [...]System{"x86_64-linux", "aarch64-linux", "x86_64-darwin", "aarch64-darwin"}

// Valid reports whether s is one of Systems.
func (s System) Valid() bool {
	for _, k := range Systems {
		if s == k {
			return true
		}
	}
	return false
}

// Darwin reports whether s is a Mac.
func (s System) Darwin() bool { return strings.HasSuffix(string(s), "-darwin") }

// clip cuts s to n bytes, for messages that quote input.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
