// SPDX-License-Identifier: MIT

package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// maxRejected is how many of the reports that were set aside are kept: the newest.
const maxRejected = 100

// rejected is a folder of reports that cannot be delivered, a file for each. The
// files are numbered from 1, so that the last number says how many there were.
type rejected struct{ dir string }

// setAside is what is kept of a report that cannot be delivered.
type setAside struct {
	At     int64           `json:"at"` // Unix ms
	Reason string          `json:"reason"`
	Report json.RawMessage `json:"report,omitempty"`
	Text   string          `json:"text,omitempty"` // of a file that is no report
}

// SetAside counts the reports that were set aside: those that are still there, and
// all that ever were.
type SetAside struct {
	Kept  int `json:"kept"`
	Total int `json:"total"`
}

// Rejected counts the reports that an agent, which may be running, has set aside.
func (d Dir) Rejected() (SetAside, error) { return rejected{rejectedIn(d.Outbox())}.count() }

// Rejected is the folder of the reports that were set aside.
func (o *Outbox) Rejected() string { return rejectedIn(o.dir) }

func rejectedIn(outbox string) string { return filepath.Join(outbox, "rejected") }

// numbers are those of the files, in order.
func (r rejected) numbers() ([]int, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read rejected reports: %w", err)
	}
	var out []int
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".json")); err == nil && n > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (r rejected) count() (SetAside, error) {
	n, err := r.numbers()
	if err != nil || len(n) == 0 {
		return SetAside{}, err
	}
	return SetAside{Kept: len(n), Total: n[len(n)-1]}, nil
}

// add sets one aside, and drops the oldest beyond the limit.
func (r rejected) add(raw []byte, reason string) error {
	s := setAside{At: time.Now().UnixMilli(), Reason: reason}
	if json.Valid(raw) {
		s.Report = raw
	} else {
		s.Text = string(raw)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("set report aside: %w", err)
	}
	if err = os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("set report aside: %w", err)
	}
	n, err := r.numbers()
	if err != nil {
		return err
	}
	next := 1
	if len(n) > 0 {
		next = n[len(n)-1] + 1
	}
	if err := atomicfile.Write(r.file(next), b, 0o600); err != nil {
		return err
	}
	for len(n) >= maxRejected {
		if err := atomicfile.Remove(r.file(n[0])); err != nil {
			return err
		}
		n = n[1:]
	}
	return nil
}

func (r rejected) file(n int) string { return filepath.Join(r.dir, fmt.Sprintf("%09d.json", n)) }

// Reject sets reports of the queue aside that the control plane does not take, by
// id, with its reasons. Nothing leaves the queue that is not kept.
func (o *Outbox) Reject(reasons map[string]string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	kept := o.items[:0:0]
	for _, q := range o.items {
		reason, ok := reasons[q.id]
		if !ok {
			kept = append(kept, q)
			continue
		}
		if err := o.setAside(q.seq, reason); err != nil {
			errs = append(errs, err)
			kept = append(kept, q)
		}
	}
	o.items = kept
	return errors.Join(errs...)
}

func (o *Outbox) setAside(seq uint64, reason string) error {
	b, err := os.ReadFile(o.file(seq))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set report aside: %w", err)
	}
	if err := (rejected{o.Rejected()}).add(b, reason); err != nil {
		return err
	}
	return atomicfile.Remove(o.file(seq))
}

// SetAside counts the reports that were set aside.
func (o *Outbox) SetAside() (SetAside, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return rejected{o.Rejected()}.count()
}
