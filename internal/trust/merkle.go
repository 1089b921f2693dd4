// SPDX-License-Identifier: MIT

package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// Tree is a Merkle tree as in RFC 6962, section 2.1: SHA-256 over 0x00 and a
// leaf, over 0x01 and two nodes. It keeps every node, so that a proof needs no
// hashing.
type Tree struct {
	// levels[0] are the leaves' hashes, the last level is the root alone. A
	// node without a right sibling moves up unchanged; that gives the same
	// tree as the RFC's split at the largest power of two.
	levels [][]node
}

type node = [sha256.Size]byte

// Proof shows that a leaf is at Index in a tree of Count leaves. Hashes are the
// siblings on the path to the root, lowest first.
type Proof struct {
	Index  int            `json:"index"`
	Count  int            `json:"count"`
	Hashes []fleet.Digest `json:"hashes"`
}

// NewTree hashes leaves into a tree.
func NewTree(leaves [][]byte) *Tree { return TreeOf(len(leaves), slices.Values(leaves)) }

// TreeOf is NewTree for leaves that are not all in memory, of which there are about
// n.
func TreeOf(n int, leaves iter.Seq[[]byte]) *Tree {
	level := make([]node, 0, n)
	for l := range leaves {
		level = append(level, leafHash(l))
	}
	t := &Tree{levels: [][]node{level}}
	for len(level) > 1 {
		up := make([]node, (len(level)+1)/2)
		for i := range up {
			if 2*i+1 < len(level) {
				up[i] = nodeHash(level[2*i], level[2*i+1])
			} else {
				up[i] = level[2*i]
			}
		}
		t.levels = append(t.levels, up)
		level = up
	}
	return t
}

// Len returns the number of leaves.
func (t *Tree) Len() int { return len(t.levels[0]) }

// Root returns the tree's root. Without leaves it is the hash of no bytes.
func (t *Tree) Root() fleet.Digest {
	if t.Len() == 0 {
		return fleet.SHA256(nil)
	}
	return digestOf(t.levels[len(t.levels)-1][0])
}

// Prove returns the proof of the leaf at index, which must exist.
func (t *Tree) Prove(index int) Proof {
	p := Proof{Index: index, Count: t.Len(), Hashes: []fleet.Digest{}}
	for _, level := range t.levels {
		if sibling := index ^ 1; sibling < len(level) {
			p.Hashes = append(p.Hashes, digestOf(level[sibling]))
		}
		index >>= 1
	}
	return p
}

// Verify returns nil if leaf is at p.Index of p.Count leaves below root. The
// caller must have compared Count with what is signed. Errors are Refusals with
// reason proof-mismatch.
func (p Proof) Verify(root fleet.Digest, leaf []byte) error {
	if p.Index < 0 || p.Index >= p.Count || p.Count > fleet.MaxEntries {
		return refuse(fleet.ReasonProofMismatch, "index %d of %d entries", p.Index, p.Count)
	}
	hash, rest := leafHash(leaf), p.Hashes
	for at, last := p.Index, p.Count-1; last > 0; at, last = at>>1, last>>1 {
		if at == last && at%2 == 0 {
			continue // no right sibling: moves up unchanged
		}
		if len(rest) == 0 {
			return refuse(fleet.ReasonProofMismatch, "the proof is too short")
		}
		sibling, ok := parseNode(rest[0])
		if !ok {
			return refuse(fleet.ReasonProofMismatch, "%.80q is not a digest", rest[0])
		}
		if at%2 == 1 {
			hash = nodeHash(sibling, hash)
		} else {
			hash = nodeHash(hash, sibling)
		}
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return refuse(fleet.ReasonProofMismatch, "the proof is too long")
	}
	if got := digestOf(hash); got != root {
		return refuse(fleet.ReasonProofMismatch, "the entry and its proof give the root %s, the header signs %s", got.Short(), root.Short())
	}
	return nil
}

func leafHash(leaf []byte) node {
	h := sha256.New()
	h.Write([]byte{0x00})
	h.Write(leaf)
	return node(h.Sum(nil))
}

func nodeHash(left, right node) node {
	var b [1 + 2*sha256.Size]byte
	b[0] = 0x01
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

func digestOf(n node) fleet.Digest { return fleet.Digest("sha256:" + hex.EncodeToString(n[:])) }

func parseNode(d fleet.Digest) (n node, ok bool) {
	if !d.Valid() {
		return n, false
	}
	_, err := hex.Decode(n[:], []byte(strings.TrimPrefix(string(d), "sha256:")))
	return n, err == nil
}
