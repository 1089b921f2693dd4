// SPDX-License-Identifier: MIT

package fleet_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
)

// verify returns the sequence at which the chain breaks, or 0.
func verify(entries []fleet.AuditEntry) (int, fleet.AuditChain) {
	var c fleet.AuditChain
	for i, e := range entries {
		before := c
		if err := c.Add(e); err != nil {
			if fleet.ErrorCode(err) != fleet.Conflict || c != before {
				return -1, c
			}
			return i + 1, c
		}
	}
	return 0, c
}

// E10: whatever is edited, removed, inserted or reordered, the chain breaks at
// the first entry that is not what it was; only a tail cut off leaves a chain
// that is whole, with an earlier head.
func TestAuditChain_BreaksAtTheFirstBadEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bodies := rapid.SliceOfN(rapid.String(), 2, 20).Draw(t, "bodies")
		var good []fleet.AuditEntry
		var head fleet.Digest
		for i, b := range bodies {
			head = fleet.AuditHash(int64(i+1), head, b)
			good = append(good, fleet.AuditEntry{Seq: int64(i + 1), Body: b, Hash: head})
		}
		if at, c := verify(good); at != 0 || c.Size != int64(len(good)) || c.Head != head {
			t.Fatalf("a good chain breaks at %d: %+v", at, c)
		}
		bad := slices.Clone(good)
		i := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		at := i + 1
		switch rapid.SampledFrom([]string{"body", "body and hash", "seq", "remove", "swap", "insert", "cut"}).Draw(t, "what") {
		case "body":
			bad[i].Body += rapid.StringN(1, 5, -1).Draw(t, "more")
		case "body and hash":
			prev := fleet.Digest("")
			if i > 0 {
				prev = bad[i-1].Hash
			}
			bad[i].Body += "x"
			bad[i].Hash = fleet.AuditHash(bad[i].Seq, prev, bad[i].Body)
			if at = i + 2; at > len(bad) {
				at = 0 // the last one: only a checkpoint shows it
			}
		case "seq":
			bad[i].Seq += rapid.Int64Range(1, 5).Draw(t, "by")
		case "remove":
			bad = slices.Delete(bad, i, i+1)
			if at > len(bad) {
				at = 0
			}
		case "swap":
			j := (i + 1) % len(bad)
			bad[i], bad[j] = bad[j], bad[i]
			at = min(i, j) + 1
		case "insert":
			bad = slices.Insert(bad, i, fleet.AuditEntry{Seq: good[i].Seq, Body: "new", Hash: fleet.SHA256(nil)})
		case "cut":
			bad, at = bad[:i], 0
		}
		got, c := verify(bad)
		if got != at {
			t.Fatalf("breaks at %d, want %d", got, at)
		}
		if at == 0 && c.Head == head {
			t.Fatal("the head does not show it")
		}
	})
}

// Neither number, predecessor nor body can pass for a part of another.
func TestAuditHash_KeepsItsPartsApart(t *testing.T) {
	a, b := fleet.SHA256([]byte("a")), fleet.SHA256([]byte("b"))
	seen := map[fleet.Digest]bool{}
	for _, p := range []struct {
		seq  int64
		prev fleet.Digest
		body string
	}{{1, "", ""}, {1, "", "\n"}, {11, "", ""}, {1, "", "1"}, {1, a, ""}, {1, b, ""}, {1, "", string(a)}, {1, "", string(a) + "\n"}, {1, a, string(b)}, {1, b, string(a)}, {2, a, ""}} {
		h := fleet.AuditHash(p.seq, p.prev, p.body)
		if seen[h] {
			t.Errorf("%d, %q, %q has the hash of another", p.seq, p.prev, p.body)
		}
		seen[h] = true
	}
}

func TestAuditEntry_TellsItsEvent(t *testing.T) {
	e := fleet.AuditEntry{Seq: 7, Body: `{"at":5,"actor":"key:alice","action":"rollout.create","subject":"rollout:r1","detail":{"a":"b"}}`}
	v, err := e.Event()
	if err != nil || v.Actor != "key:alice" || v.At != 5 || v.Detail["a"] != "b" {
		t.Errorf("%+v, %v", v, err)
	}
	e.Body = "{"
	if _, err := e.Event(); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), "audit entry 7") {
		t.Errorf("a broken body: %v", err)
	}
}
