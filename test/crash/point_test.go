// SPDX-License-Identifier: MIT

//go:build linux

package crash

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// point is a moment of an attempt, the same in each run: what the journal on
// disk says, and what is about to happen.
type point struct {
	Step states.Step
	What string
	N    int // of the same in this attempt, from 1
}

// String names the point in the output.
func (p point) String() string {
	if p.N > 1 {
		return fmt.Sprintf("%s: %s (%d)", p.Step, p.What, p.N)
	}
	return fmt.Sprintf("%s: %s", p.Step, p.What)
}

// namer makes points of what processes open and execute.
type namer struct {
	journal   string // the file
	seen      map[string]int
	victim    int               // the process to kill: the agent, or the watchdog where it acts
	written   map[string]string // what agent and watchdog have written and not yet put in its place
	starts    bool              // the agent has read its outbox and nothing else
	activated bool              // the system was activated, its services are not yet restarted
}

// point names the moment at which a process opens or executes a file; false if it is
// not a point.
func (n *namer) point(exec bool, file string, pid int) (point, bool) {
	who := look(pid)
	if exec {
		pid = who.parent
		who = look(pid)
	}
	what, role := "", who.role()
	switch {
	case exec:
		what = n.execution(file, role, who)
	case role != "":
		what = n.opening(file, role)
	default:
		what = n.others(file)
	}
	if what == "" {
		return point{}, false
	}
	if role != "" {
		n.victim = pid
	}
	if role == watchdog {
		what = "the watchdog, " + what
	}
	p := point{Step: n.step(), What: what}
	key := string(p.Step) + what
	n.seen[key]++
	p.N = n.seen[key]
	return p, true
}

// opening is of one of our programs: a file is written beside its place, then
// renamed, then the folder is opened to be synced.
func (n *namer) opening(file, role string) string {
	base := path.Base(file)
	written := n.written[role]
	switch dir := path.Dir(file); {
	case atomicfile.Temporary(base):
		written = n.known(path.Join(dir, replaced(base)))
		n.written[role] = written
		return "before " + written + " is written"
	case file == stateDir+"/outbox" && written == "":
		n.starts = true
		return "the agent starts"
	case file == stateDir && written == "" && n.starts:
		n.starts = false
		return "the agent removes what interrupted writes have left"
	case file == stateDir && written == "":
		return "after the watchdog is disarmed"
	case written != "" && (file == stateDir || file == stateDir+"/outbox" || file == stateDir+"/switch" || file == "/run/nixfleet"):
		delete(n.written, role)
		return "after " + written + " is written"
	}
	return ""
}

// replaced is the name of the file that a temporary one is going to replace:
// ".NAME.NUMBER.tmp".
func replaced(temporary string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(temporary, "."), ".tmp")
	return strings.TrimSuffix(name, path.Ext(name))
}

// known is a file's name without what differs from run to run.
func (n *namer) known(file string) string {
	switch path.Dir(file) {
	case stateDir + "/outbox":
		return "a report"
	case stateDir + "/switch":
		return "the switch's wrapper"
	case "/run/nixfleet":
		return "the running " + path.Base(file)
	}
	return path.Base(file)
}

// execution names what a process does when it executes a program.
func (n *namer) execution(file, role string, by process) string {
	base := path.Base(file)
	switch {
	case base == "activate":
		n.activated = true
		return "before the system is activated"
	case base == "switch-to-configuration":
		return "before the switch begins"
	case base == "systemctl" && n.activated && strings.Contains(by.args, "switch-to-configuration"):
		n.activated = false
		return "before systemd reads the new units"
	case base == "systemctl" || role == "":
		return ""
	}
	return "before " + base + " is run"
}

// others names what processes of the switch do.
func (n *namer) others(file string) string {
	switch base := path.Base(file); {
	case strings.HasSuffix(base, ".started"):
		return "before the switch is marked as begun"
	case strings.HasSuffix(base, ".code.tmp"):
		return "before the switch's exit code is written"
	case file == "/boot/default.new":
		return "while the boot default is written"
	case file == "/nix/var/nix/profiles/system.lock":
		return "while the profile is set"
	}
	return ""
}

// step returns the journal's step. It reads the file below the overlay, which is not
// watched.
func (n *namer) step() states.Step {
	var j struct {
		Step states.Step `json:"step"`
	}
	b, err := os.ReadFile(n.journal)
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		return "none"
	}
	return j.Step
}

func TestReplaced_IsTheNameThatATemporaryFileGets(t *testing.T) {
	for base, want := range map[string]string{".journal.json.1234.tmp": "journal.json", ".0013.json.1234.tmp": "0013.json"} {
		if got := replaced(base); got != want {
			t.Errorf("%s replaces %s, want %s", base, got, want)
		}
	}
}
