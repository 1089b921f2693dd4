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
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// maxQueued bounds the queue. A machine that is offline for long keeps its newest
// reports, and outcomes longer than progress (A09).
const maxQueued = 500

// Outbox is a queue of reports in a folder, a file for each, sent in order. It
// is safe for concurrent use within one process.
type Outbox struct {
	dir   string
	limit int
	wake  chan struct{}
	mu    sync.Mutex
	items []queued
	next  uint64
}

type queued struct {
	seq     uint64
	id      string
	outcome bool
}

// OpenOutbox reads the queue in dir, which it makes if there is none.
func OpenOutbox(dir string) (*Outbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make outbox: %w", err)
	}
	entries, err := os.ReadDir(dir) // by name, which is by number
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	if err := sweep(dir, entries); err != nil {
		return nil, err
	}
	o := &Outbox{dir: dir, limit: maxQueued, wake: make(chan struct{}, 1), next: 1}
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), ".json"), 10, 64)
		if err != nil || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		o.next = max(o.next, seq+1)
		r, err := o.read(seq)
		if err != nil { // it could not be sent
			if err = o.setAside(seq, err.Error()); err != nil {
				return nil, err
			}
			continue
		}
		o.items = append(o.items, queued{seq, r.ID, r.Kind == fleet.ReportOutcome})
	}
	o.notify()
	return o, nil
}

// Queued counts the reports in the queue of an agent that may be running.
func (d Dir) Queued() (int, error) {
	files, err := filepath.Glob(filepath.Join(d.Outbox(), "[0-9]*.json"))
	if err != nil {
		return 0, fmt.Errorf("read outbox: %w", err)
	}
	return len(files), nil
}

func (o *Outbox) file(seq uint64) string { return filepath.Join(o.dir, fmt.Sprintf("%016d.json", seq)) }

func (o *Outbox) read(seq uint64) (fleet.Report, error) {
	var r fleet.Report
	b, err := os.ReadFile(o.file(seq))
	if err != nil {
		return r, fmt.Errorf("read report: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

func (o *Outbox) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Wake tells when there may be something to send.
func (o *Outbox) Wake() <-chan struct{} { return o.wake }

// Len is the number of reports in the queue.
func (o *Outbox) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.items)
}

// Put queues a report, cut to its limits (A15), unless its id is queued already.
// On a full disk it drops progress to make room for an outcome.
func (o *Outbox) Put(r fleet.Report) error {
	r.Clean()
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range o.items {
		if q.id == r.ID {
			return nil
		}
	}
	for len(o.items) >= o.limit {
		if err = o.drop(); err != nil {
			return err
		}
	}
	seq := o.next
	for {
		err = atomicfile.Write(o.file(seq), b, 0o600)
		if err == nil {
			break
		}
		if len(o.items) == 0 || r.Kind != fleet.ReportOutcome || o.drop() != nil {
			return err
		}
	}
	o.next++
	o.items = append(o.items, queued{seq, r.ID, r.Kind == fleet.ReportOutcome})
	o.notify()
	return nil
}

// drop removes the oldest report that is not an outcome, else the oldest.
func (o *Outbox) drop() error {
	at := 0
	for i, q := range o.items {
		if !q.outcome {
			at = i
			break
		}
	}
	err := atomicfile.Remove(o.file(o.items[at].seq))
	if err == nil {
		o.items = append(o.items[:at:at], o.items[at+1:]...)
	}
	return err
}

// Batch returns the oldest reports, at most n. A file that is no report is set
// aside.
func (o *Outbox) Batch(n int) ([]fleet.Report, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []fleet.Report
	for i := 0; i < len(o.items) && len(out) < n; {
		q := o.items[i]
		r, err := o.read(q.seq)
		if err == nil {
			out = append(out, r)
			i++
			continue
		}
		if err = o.setAside(q.seq, err.Error()); err != nil {
			return nil, err
		}
		o.items = slices.Delete(slices.Clone(o.items), i, i+1)
	}
	return out, nil
}

// Sent removes acknowledged reports from the queue.
func (o *Outbox) Sent(ids ...string) error {
	sent := make(map[string]bool, len(ids))
	for _, id := range ids {
		sent[id] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	kept := o.items[:0:0]
	for _, q := range o.items {
		if !sent[q.id] {
			kept = append(kept, q)
			continue
		}
		// Not synced: a report that is sent twice is applied once.
		if err := os.Remove(o.file(q.seq)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove report: %w", err))
			kept = append(kept, q)
		}
	}
	o.items = kept
	return errors.Join(errs...)
}
