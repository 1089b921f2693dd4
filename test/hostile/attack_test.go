// SPDX-License-Identifier: MIT

package hostile

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// What an attacker may hold.
const (
	network      = "network"
	controlPlane = "control plane"
	database     = "database"
	cache        = "cache"
	cacheKey     = "cache key"
	oneMachine   = "one machine"
	agentCert    = "agent certificate"
	caKey        = "CA key"
	releaseKey   = "release key"
	timeSource   = "clock"
	bootSecret   = "bootstrap secret"
	enrolToken   = "enrolment token"
)

// apiKey is an API key as a holding.
func apiKey(role fleet.Role, limited bool) string {
	if limited {
		return "API key, " + string(role) + ", limited"
	}
	return "API key, " + string(role)
}

// attack is one row of the table: who tries what where, and what must not change
// by it.
type attack struct {
	holder string // what the attacker holds
	entry  string // where he uses it
	name   string // what he does, and the hard case
	want   string // how it is refused: a code, or a reason
	// do attacks and returns how it was refused, "" if it was not.
	do func(t *testing.T) string
	// prepare, if there is one, runs before the state is taken.
	prepare func(t *testing.T)
}

// stage is where attacks are made: what is compared before and after each.
type stage struct {
	compared string // in words
	state    func(t *testing.T) any
	// control changes the state as its owner may: a comparison that does not see
	// this sees nothing.
	control func(t *testing.T)
	// undo, if there is one, undoes that.
	undo func(t *testing.T)
}

// tally counts attacks over the whole program.
var tally struct {
	sync.Mutex
	names    map[string]bool
	breaches []string
}

// play makes the attacks of a stage, one after another.
func play(t *testing.T, s stage, attacks []attack) {
	t.Helper()
	before := s.state(t)
	if s.control(t); cmp.Equal(before, s.state(t)) {
		t.Errorf("%s: the comparison does not see what changes it", s.compared)
	}
	if s.undo != nil {
		s.undo(t)
	}
	for _, a := range attacks {
		t.Run(a.holder+"/"+a.entry+"/"+a.name, func(t *testing.T) {
			if a.prepare != nil {
				a.prepare(t)
			}
			before := s.state(t)
			got := a.do(t)
			diff := cmp.Diff(before, s.state(t))
			if got != a.want {
				t.Errorf("refused as %q, want %q", got, a.want)
			}
			if diff != "" {
				t.Errorf("%s changed (-before +after):\n%s", s.compared, diff)
			}
			tally.Lock()
			defer tally.Unlock()
			if tally.names[t.Name()] {
				t.Errorf("there are two attacks of this name")
			}
			if tally.names == nil {
				tally.names = map[string]bool{}
			}
			tally.names[t.Name()] = true
			if t.Failed() {
				tally.breaches = append(tally.breaches, t.Name())
			}
		})
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if file := os.Getenv("NIXFLEET_HOSTILE_RESULT"); file != "" {
		line, err := json.Marshal(map[string]any{"attacks": len(tally.names), "breaches": len(tally.breaches)})
		if err == nil {
			err = os.WriteFile(file, append(line, '\n'), 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// code is how an error refuses: the reason of the trust rules that it names, or
// its code.
func code(err error) string {
	if err == nil {
		return ""
	}
	if fleet.ErrorCode(err) == fleet.Refused {
		if r := trust.ReasonOf(err); r != "" {
			return string(r)
		}
	}
	return string(fleet.ErrorCode(err))
}
