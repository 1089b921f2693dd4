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
