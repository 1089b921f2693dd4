// SPDX-License-Identifier: MIT

package trust_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// The leaves and roots that implementations of RFC 6962 are tested with.
var ctLeaves = []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}

var ctRoots = []string{
	"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
	"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
	"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
	"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
	"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
	"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
	"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
	"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}

func TestTree_HasTheRootsOfRFC6962(t *testing.T) {
	leaves := [][]byte{}
	for n := range ctRoots {
		if got, want := string(trust.NewTree(leaves).Root()), "sha256:"+ctRoots[n]; got != want {
			t.Errorf("root of %d leaves: %s, want %s", n, got, want)
		}
		if n < len(ctLeaves) {
			leaf, _ := hex.DecodeString(ctLeaves[n])
			leaves = append(leaves, leaf)
		}
	}
	want := []fleet.Digest{
		"sha256:96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
		"sha256:5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
		"sha256:6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
	}
	if diff := cmp.Diff(want, trust.NewTree(leaves).Prove(0).Hashes); diff != "" {
		t.Errorf("audit path of leaf 0 of 8 (-want +got):\n%s", diff)
	}
}

func numbered(n int) [][]byte {
	leaves := make([][]byte, n)
	for i := range leaves {
		leaves[i] = fmt.Appendf(nil, "leaf %d", i)
	}
	return leaves
}

// mth is RFC 6962's own recursive definition.
func mth(leaves [][]byte) [32]byte {
	if len(leaves) == 0 {
		return sha256.Sum256(nil)
	}
	if len(leaves) == 1 {
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	l, r := mth(leaves[:k]), mth(leaves[k:])
	return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:]))
}

func TestTree_ProvesEveryLeafOfEverySizeAndNoOther(t *testing.T) {
	for n := 1; n <= 70; n++ {
		leaves := numbered(n)
		tree := trust.NewTree(leaves)
		want := mth(leaves)
		if got := string(tree.Root()); got != "sha256:"+hex.EncodeToString(want[:]) {
			t.Fatalf("root of %d leaves differs from the RFC's definition", n)
		}
		for i := range n {
			p := tree.Prove(i)
			if err := p.Verify(tree.Root(), leaves[i]); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			if err := p.Verify(tree.Root(), []byte("another")); trust.ReasonOf(err) != fleet.ReasonProofMismatch {
				t.Fatalf("another leaf at %d of %d: %v", i, n, err)
			}
			for j := range n {
				moved := p
				moved.Index = j
				if err := moved.Verify(tree.Root(), leaves[i]); (err == nil) != (i == j) {
					t.Fatalf("proof of %d of %d taken for %d: %v", i, n, j, err)
				}
			}
		}
	}
}

func TestProof_IsRefusedWhenAltered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 3000).Draw(t, "leaves")
		i := rapid.IntRange(0, n-1).Draw(t, "index")
		leaves := numbered(n)
		tree := trust.NewTree(leaves)
		p := tree.Prove(i)
		switch rapid.IntRange(0, 4).Draw(t, "how") {
		case 0:
			p.Hashes = p.Hashes[:len(p.Hashes)-1]
		case 1:
			p.Hashes = append(p.Hashes, fleet.SHA256(nil))
		case 2:
			k := rapid.IntRange(0, len(p.Hashes)-1).Draw(t, "hash")
			p.Hashes[k] = fleet.SHA256([]byte(p.Hashes[k]))
		case 3:
			k := rapid.IntRange(0, len(p.Hashes)-1).Draw(t, "hash")
			p.Hashes[k] = fleet.Digest(strings.ToUpper(string(p.Hashes[k])))
		case 4:
			p.Index += n * rapid.SampledFrom([]int{-1, 1}).Draw(t, "by")
		}
		if err := p.Verify(tree.Root(), leaves[i]); trust.ReasonOf(err) != fleet.ReasonProofMismatch {
			t.Fatalf("got %v", err)
		}
	})
}

// A leaf must not pass for a node: that is what the 0x00 and 0x01 are for.
func TestProof_DoesNotTakeANodeForALeaf(t *testing.T) {
	leaves := numbered(4)
	tree := trust.NewTree(leaves)
	l, r := mth(leaves[:1]), mth(leaves[1:2])
	inner := slices.Concat(l[:], r[:])
	p := trust.Proof{Index: 0, Count: 2, Hashes: tree.Prove(0).Hashes[1:]}
	if err := p.Verify(tree.Root(), inner); trust.ReasonOf(err) != fleet.ReasonProofMismatch {
		t.Fatalf("got %v", err)
	}
}

func BenchmarkTree200000(b *testing.B) {
	leaves := numbered(fleet.MaxEntries)
	for b.Loop() {
		tree := trust.NewTree(leaves)
		for i := range leaves {
			tree.Prove(i)
		}
	}
}
