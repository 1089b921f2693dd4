// SPDX-License-Identifier: MIT

package agent

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
)

// knowledge is what an agent knows when it starts.
type knowledge struct {
	journal states.Journal
	lost    bool // there was no journal
	damaged error
	files   disk.Dir
	copy    disk.FloorCopy
}

// load reads the journal, pins the root document of the running system, and sees
// that the floor is nowhere below its second copy, which is beside the GC roots. It
// changes no file but a journal that cannot be read.
func load(cfg config.Agent, rootsDir string) (knowledge, error) {
	k, noRoot, err := look(cfg, rootsDir)
	if err == nil {
		err = noRoot
	}
	return k, err
}

// look is load for who only looks: that the root document cannot be read, or is
// invalid, is told apart as noRoot.
func look(cfg config.Agent, rootsDir string) (k knowledge, noRoot, err error) {
	k, err = knowledgeOf(cfg, rootsDir)
	if err != nil {
		return k, nil, err
	}
	j, noRoot := withRoot(cfg, k.journal)
	if noRoot == nil {
		k.journal = j
	}
	kept, ok, err := k.copy.Read(k.journal.Trust.Root)
	if err != nil {
		k.damaged = err
	}
	if ok && err == nil {
		k.journal = join(k.journal, kept)
	}
	return k, noRoot, nil
}

func knowledgeOf(cfg config.Agent, rootsDir string) (knowledge, error) {
	k := knowledge{
		files: disk.Dir(cfg.StateDir),
		copy:  disk.FloorCopy{File: filepath.Join(rootsDir, "floor.json"), Machine: cfg.MachineID},
	}
	var err error
	k.journal, k.lost, err = k.files.Journal().Load()
	return k, err
}

// join raises a journal to what the second copy says.
func join(j states.Journal, kept disk.Kept) states.Journal {
	floor := kept.Floor
	if j.Trust.Floor != nil {
		floor = j.Trust.Floor.Join(floor)
	}
	j.Trust.Floor = &floor
	if len(kept.Reverted) > 0 {
		reverted := maps.Clone(kept.Reverted)
		maps.Copy(reverted, j.Trust.Reverted)
		j.Trust.Reverted = reverted
	}
	return j
}

// save returns what writes a journal, and before it the second copy of its floor.
func (k knowledge) save() func(states.Journal) error {
	return func(j states.Journal) error {
		var err error
		if j.Trust.Floor != nil {
			err = k.copy.Write(disk.Kept{Floor: *j.Trust.Floor, Reverted: j.Trust.Reverted}, j.Trust.Root)
		}
		return errors.Join(err, k.files.Journal().Save(j))
	}
}

// tell says what is lost. That a copy is damaged is reported.
func (k knowledge) tell(log *slog.Logger, seen states.Seen, report func(fleet.Report) error) {
	unknown := k.journal.Trust.Floor == nil
	switch {
	case k.damaged != nil:
		log.Error("a copy of the floor is damaged", "error", k.damaged, "unknown", unknown, "hint", "if the floor is unknown: nixfleet-agent adopt-floor --sequence N, with the sequence that nixfleet release list shows")
		if err := report(seen.DamagedFloor(k.damaged.Error())); err != nil {
			log.Warn("a report cannot be queued", "error", err)
		}
	case k.lost && unknown:
		log.Warn("the machine has no state: it accepts no release but the one it runs until its enrolment token, a timestamp, a grant or nixfleet-agent adopt-floor says what its floor is")
	case k.lost:
		log.Warn("the machine has no state but its floor, which the copy beside its GC roots has kept", "file", k.copy.File)
	}
}
