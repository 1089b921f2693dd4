// SPDX-License-Identifier: MIT

package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/command"
)

// E12: each command echoes the latest epoch that this user has seen of the control
// plane in use, whatever it shows afterwards, and no other control plane hears it.
func TestEpoch_IsEchoedToTheControlPlaneThatGaveIt(t *testing.T) {
	p, other := newPlane(t), newPlaneOf(t, "other")
	u := newUser(t)
	head := strings.Repeat("a", 64) + "." + strings.Repeat("b", 64)
	for _, step := range []struct{ gives, echoes string }{
		{"0.5." + head, ""},
		{"0.12." + head, "0.5." + head},
		{"0.9." + head, "0.12." + head}, // an older copy: what was seen stays
		{"nonsense", "0.12." + head},
		{"1.2." + head, "0.12." + head}, // an operator has accepted a restored database
		{strings.Repeat("9", 400) + ".1." + head, "1.2." + head},
		{"", "1.2." + head},
	} {
		p.epoch = step.gives
		u.of(p).mustRun(command.ExitDone, "machine", "list")
		if got := p.echoes[len(p.echoes)-1]; got != step.echoes {
			t.Errorf("before %.20q: echoed %.20q, want %.20q", step.gives, got, step.echoes)
		}
	}
	other.epoch = ""
	u.of(other).mustRun(command.ExitDone, "machine", "list")
	if !slices.Equal(other.echoes, []string{""}) {
		t.Errorf("another control plane hears %q", other.echoes)
	}
	// A file that is damaged costs a warning, not the command.
	found, err := filepath.Glob(filepath.Join(u.home, ".local", "state", "nixfleet", "epoch-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("kept in %v, %v", found, err)
	}
	if err := os.WriteFile(found[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := u.of(p).mustRun(command.ExitDone, "machine", "list"); !strings.Contains(r.stderr, found[0]) {
		t.Errorf("a damaged file: %q", r.stderr)
	}
}
