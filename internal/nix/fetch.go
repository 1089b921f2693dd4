// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// FetchError is why a system could not be fetched.
type FetchError struct {
	Reason fleet.Reason // fetch-failed, fetch-stalled, cache-signature, nar-hash-mismatch, disk-full
	Text   string       // the last lines of what Nix printed
}

// Error returns the reason and the text.
func (e *FetchError) Error() string { return string(e.Reason) + ": " + e.Text }

// Fetch is a system to copy from binary caches into this machine's store.
type Fetch struct {
	Path   fleet.StorePath
	Caches []fleet.Cache
	// Stall is how long the copy may make no progress; 0 means two minutes.
	// There is no limit on the whole fetch (A14).
	Stall time.Duration
	// Roots are the names in RootsDir of the GC roots that hold what was fetched, and
	// nothing that runs. They are removed when the system is not the signed one.
	Roots []string
	// Signed keeps the signed list of the closure for later tries; nil: for this
	// one only.
	Signed *SignedList
	// Booted is when the machine was booted: what was fetched before is hashed anew.
	// Zero: nothing is.
	Booted time.Time
	// Scratch is a folder for archives that are compared before Nix gets them; empty:
	// one in the system's folder for temporary files.
	Scratch string
	// Repairs says which paths may be replaced while they are in use; nil: none.
	Repairs Repairs
	// Deviates is told what is not as signed, before anything is done about it; nil:
	// nobody is.
	Deviates func([]Deviation)
}

// Repairs are the paths in use that a person has allowed to be replaced.
type Repairs interface {
	Allowed(fleet.StorePath) bool
	// Repaired tells that the path is as signed now.
	Repaired(fleet.StorePath) error
}

// Run copies what is missing, and accepts no path that lacks a signature by the
// caches' keys. The caller keeps a GC root on the path from before the start.
// An error is a *FetchError, unless the context ended.
func (f Fetch) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := watch{limit: f.Stall, last: time.Now(), seen: map[int64]string{}}
	if w.limit <= 0 {
		w.limit = 2 * time.Minute
	}
	p, err := proc.Start(ctx, proc.Cmd{
		Path:   "nix-store",
		Args:   append([]string{"--realise", string(f.Path), "--log-format", "internal-json"}, f.options(w.limit)...),
		OnLine: w.line,
	})
	if err != nil {
		return &FetchError{fleet.ReasonFetchFailed, err.Error()}
	}
	tick := time.NewTicker(max(w.limit/10, 10*time.Millisecond))
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-p.Done():
			done = true
		case <-tick.C:
			if w.stalled() {
				stop(errStalled)
			}
		}
	}
	_, err = p.Wait()
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errStalled):
		return &FetchError{fleet.ReasonFetchStalled, "no progress for " + w.limit.String() + "\n" + w.text()}
	case ctx.Err() != nil:
		return fmt.Errorf("fetch %s: %w", f.Path, context.Cause(ctx))
	}
	text := w.text()
	if text == "" {
		text = err.Error()
	}
	return &FetchError{fetchReason(text), text}
}

var errStalled = errors.New("no progress")

// options make Nix use the release's caches and keys, whatever the machine has
// configured, and build nothing.
func (f Fetch) options(stall time.Duration) []string {
	var urls, keys []string
	for _, c := range f.Caches {
		urls = append(urls, c.URL)
		keys = append(keys, c.PublicKeys...)
	}
	slices.Sort(keys)
	opts := [][2]string{
		{"substitute", "true"}, {"substituters", strings.Join(urls, " ")}, {"trusted-public-keys", strings.Join(slices.Compact(keys), " ")},
		{"require-sigs", "true"}, {"max-jobs", "0"}, {"builders", ""}, {"fallback", "false"},
		// A cache that lacked the path a minute ago may have it now.
		{"narinfo-cache-negative-ttl", "0"}, {"narinfo-cache-positive-ttl", "0"},
		{"connect-timeout", "10"}, {"download-attempts", "2"},
		{"stalled-download-timeout", strconv.Itoa(max(1, int(stall/time.Second)))},
	}
	var args []string
	for _, o := range opts {
		args = append(args, "--option", o[0], o[1])
	}
	return args
}

func fetchReason(text string) fleet.Reason {
	has := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(text, s) })
	}
	switch {
	case has("No space left on device", "disk quota exceeded", "Disk quota exceeded", "database or disk is full"):
		return fleet.ReasonDiskFull
	case has("hash mismatch"):
		return fleet.ReasonNarHashMismatch
	case has("lacks a valid signature", "lacks a signature", "does not have a valid signature", "is not signed by any of the keys"):
		return fleet.ReasonBadCacheSig
	}
	return fleet.ReasonFetchFailed
}

// watch reads Nix's log and records when the fetch last made progress.
type watch struct {
	limit time.Duration

	mu   sync.Mutex
	last time.Time
	seen map[int64]string // last progress of each activity
	said []string         // last warnings and errors
}

type logLine struct {
	Action string          `json:"action"`
	ID     int64           `json:"id"`
	Level  int             `json:"level"`
	Msg    string          `json:"msg"`
	Fields json.RawMessage `json:"fields"`
}

func (w *watch) line(s proc.Stream, text string) {
	if s != proc.Stderr {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, structured := strings.CutPrefix(text, "@nix ")
	var l logLine
	if !structured || json.Unmarshal([]byte(raw), &l) != nil {
		l = logLine{Action: "msg", Msg: text}
	}
	switch l.Action {
	case "result": // repeated also when there is no progress
		if w.seen[l.ID] == string(l.Fields) {
			return
		}
		w.seen[l.ID] = string(l.Fields)
	case "stop":
		delete(w.seen, l.ID)
	case "msg":
		if l.Level <= 1 {
			w.said = append(w.said, strings.TrimSpace(colour.ReplaceAllString(l.Msg, "")))
			if len(w.said) > 20 {
				w.said = w.said[1:]
			}
		}
	}
	w.last = time.Now()
}

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

func (w *watch) stalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.last) > w.limit
}

func (w *watch) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fleet.CleanText(strings.Join(w.said, "\n"), fleet.MaxMessage/2)
}

// Missing returns how many bytes a fetch would unpack; -1 if Nix does not say.
func (f Fetch) Missing(ctx context.Context) int64 {
	res, err := proc.Run(ctx, proc.Cmd{
		Path: "nix-store", Args: append([]string{"--realise", "--dry-run", string(f.Path)}, f.options(time.Minute)...), Timeout: 2 * time.Minute,
	})
	m := unpacked.FindSubmatch(res.Stderr)
	if err != nil || m == nil {
		return -1
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	unit := map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[string(m[2])]
	if err != nil || unit == 0 {
		return -1
	}
	return int64(n * unit)
}

var unpacked = regexp.MustCompile(`([0-9.]+) ([KMGT]iB) unpacked`)
