// SPDX-License-Identifier: AGPL-3.0-only

package epoch

import (
	"bytes"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// E12: only the holder of the key can say what the fleet has seen.
func TestDecode_KnowsOwnEpochsOnly(t *testing.T) {
	k := &Keeper{key: bytes.Repeat([]byte{1}, 32)}
	want := point{3, fleet.AuditHead{Size: 42, Head: fleet.SHA256([]byte("head"))}}
	token := k.encode(want)
	if got, ours := k.decode(token); !ours || got != want {
		t.Errorf("decode(%q) = %+v, %t", token, got, ours)
	}
	other := &Keeper{key: bytes.Repeat([]byte{2}, 32)}
	for _, bad := range []string{"", "3.42", other.encode(want), strings.Replace(token, "3.42.", "3.43.", 1), token + "0", "9.9.ffff.ffff"} {
		if _, ours := k.decode(bad); ours {
			t.Errorf("%q was taken for an epoch of ours", bad)
		}
	}
}

// FuzzDecode takes what agents and CLIs echo: only a token of ours means anything,
// and it has one spelling.
func FuzzDecode(f *testing.F) {
	k := &Keeper{key: bytes.Repeat([]byte{1}, 32)}
	f.Add(k.encode(point{3, fleet.AuditHead{Size: 42, Head: fleet.SHA256(nil)}}), int64(3), int64(42))
	f.Add("0.0..", int64(0), int64(0))
	f.Add("+3.42."+strings.Repeat("a", 64)+".ff", int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, text string, generation, size int64) {
		if got, ours := k.decode(text); ours && k.encode(got) != text {
			t.Fatalf("%q was taken as %+v", text, got)
		}
		want := point{generation, fleet.AuditHead{Size: size}}
		if size > 0 {
			want.head.Head = fleet.SHA256([]byte(text))
		}
		token := k.encode(want)
		if got, ours := k.decode(token); !ours || got != want {
			t.Fatalf("%+v became %+v, ours: %t", want, got, ours)
		}
		// One character more, less or other is not ours.
		for _, bad := range []string{token + text, token[1:], "0" + token, strings.ToUpper(token)} {
			if _, ours := k.decode(bad); ours && bad != token {
				t.Fatalf("%q was taken for %q", bad, token)
			}
		}
	})
}
