// SPDX-License-Identifier: MIT

package evil

import (
	"bytes"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
)

// Fault is what an evil cache does.
type Fault string

// The faults.
const (
	None          Fault = ""                // nothing: an honest cache
	DropSignature Fault = "drop-signature"  // metadata without signatures
	SwapNAR       Fault = "swap-nar"        // another path's archive, under the right metadata
	SwapPath      Fault = "swap-path"       // another path's metadata and archive, under the right name
	AlterNAR      Fault = "alter-nar"       // archives with one byte changed
	TruncateNAR   Fault = "truncate-nar"    // half of an archive, then the end of the connection
	Unavailable   Fault = "unavailable"     // 503 for everything
	StallNAR      Fault = "stall-nar"       // half of an archive, then nothing
	Forge         Fault = "forge"           // what Forged has, for every question
	ForgeThenFail Fault = "forge-then-fail" // what Forged has, and 503 for the other archives
	ForgeOnce     Fault = "forge-once"      // what Forged has, until an archive of it was delivered; then the honest cache
)

// Cache alters what a binary cache serves. It is honest until Set.
type Cache struct {
	// Next is the honest cache.
	Next http.Handler
	// Other is the store path, in the honest cache, that SwapNAR and SwapPath deliver.
	Other string
	// Forged is what a holder of the honest cache's key has made: Forge and ForgeOnce
	// deliver what is in it.
	Forged http.Handler

	mu    sync.Mutex
	fault Fault
	hits  int
	told  bool // ForgeOnce has delivered a forged archive
}

// Set changes what the cache does from the next request on.
func (c *Cache) Set(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault, c.told = f, false
}

// Wrap puts a handler before the honest cache, from the next request on.
func (c *Cache) Wrap(wrap func(honest http.Handler) http.Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Next = wrap(c.Next)
}

func (c *Cache) next() http.Handler {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Next
}

// Hits returns the number of replies that were altered: a test in which it stays zero
// proves nothing.
func (c *Cache) Hits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits
}

// ServeHTTP answers one request of a substituter.
func (c *Cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	fault := c.fault
	c.mu.Unlock()
	nar := strings.Contains(r.URL.Path, ".nar") && !strings.HasSuffix(r.URL.Path, ".narinfo")
	info := strings.HasSuffix(r.URL.Path, ".narinfo")
	switch {
	case fault == Unavailable:
		c.hit()
		w.Header().Set("Retry-After", "1")
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	case fault == Forge || fault == ForgeOnce || fault == ForgeThenFail:
		c.serveForged(w, r, nar)
	case info && (fault == DropSignature || fault == SwapNAR || fault == SwapPath):
		c.serveInfo(w, r, fault)
	case nar && fault == AlterNAR:
		c.serveNAR(w, r, func(b []byte) { b[len(b)/2] ^= 1 })
	case nar && (fault == TruncateNAR || fault == StallNAR):
		c.serveHalf(w, r, fault == StallNAR)
	default:
		c.next().ServeHTTP(w, r)
	}
}

func (c *Cache) hit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hits++
}

func (c *Cache) serveInfo(w http.ResponseWriter, r *http.Request, fault Fault) {
	reply := c.ask(r, r.URL.Path)
	if fault != DropSignature && reply.code == http.StatusOK {
		hash, _, _ := strings.Cut(path.Base(c.Other), "-")
		other := c.ask(r, "/"+hash+".narinfo")
		if other.code != http.StatusOK {
			http.Error(w, fmt.Sprintf("evil cache: %s is not in the honest one", c.Other), http.StatusInternalServerError)
			return
		}
		take := []string{"URL", "Compression", "FileHash", "FileSize"}
		if fault == SwapPath {
			take = append(take, "NarHash", "NarSize", "References", "Deriver", "Sig", "CA")
		}
		reply.body = *bytes.NewBufferString(swap(reply.body.String(), other.body.String(), take))
	}
	if fault == DropSignature {
		reply.body = *bytes.NewBufferString(swap(reply.body.String(), "", []string{"Sig"}))
	}
	c.hit()
	reply.send(w)
}

// serveForged lies as long as the first lie was not believed.
func (c *Cache) serveForged(w http.ResponseWriter, r *http.Request, nar bool) {
	c.mu.Lock()
	honest, fails := c.told && c.fault == ForgeOnce, c.fault == ForgeThenFail
	c.mu.Unlock()
	forged, truth := ask(c.Forged, r, r.URL.Path), ask(c.next(), r, r.URL.Path)
	if honest || forged.code != http.StatusOK || bytes.Equal(forged.body.Bytes(), truth.body.Bytes()) {
		if nar && fails {
			truth = &reply{code: http.StatusServiceUnavailable, header: http.Header{}}
		}
		truth.send(w)
		return
	}
	c.hit()
	forged.send(w)
	c.mu.Lock()
	c.told = c.told || nar
	c.mu.Unlock()
}

// swap replaces fields of a narinfo by another's.
func swap(info, other string, fields []string) string {
	named := func(line string) bool {
		key, _, _ := strings.Cut(line, ":")
		for _, f := range fields {
			if key == f {
				return true
			}
		}
		return false
	}
	var b strings.Builder
	for line := range strings.Lines(info) {
		if !named(line) {
			b.WriteString(line)
		}
	}
	for line := range strings.Lines(other) {
		if named(line) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (c *Cache) serveNAR(w http.ResponseWriter, r *http.Request, alter func([]byte)) {
	reply := c.ask(r, r.URL.Path)
	if b := reply.body.Bytes(); len(b) > 0 {
		alter(b)
		c.hit()
	}
	reply.send(w)
}

// serveHalf announces a whole archive and sends half of it.
func (c *Cache) serveHalf(w http.ResponseWriter, r *http.Request, stall bool) {
	reply := c.ask(r, r.URL.Path)
	b := reply.body.Bytes()
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(reply.code)
	c.hit()
	if _, err := w.Write(b[:len(b)/2]); err != nil {
		return
	}
	if stall {
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler) // how net/http cuts the connection
}

// ask gets a whole file from the honest cache.
func (c *Cache) ask(r *http.Request, path string) *reply { return ask(c.next(), r, path) }

// ask gets a whole file from a cache.
func ask(cache http.Handler, r *http.Request, path string) *reply {
	in := r.Clone(r.Context())
	in.Method, in.URL.Path = http.MethodGet, path
	in.Header.Del("Range")
	in.Header.Del("If-Modified-Since")
	out := &reply{code: http.StatusOK, header: http.Header{}}
	cache.ServeHTTP(out, in)
	return out
}

// reply records what a handler writes.
type reply struct {
	code   int
	header http.Header
	body   bytes.Buffer
}

func (r *reply) Header() http.Header         { return r.header }
func (r *reply) WriteHeader(code int)        { r.code = code }
func (r *reply) Write(b []byte) (int, error) { return r.body.Write(b) }

func (r *reply) send(w http.ResponseWriter) {
	w.Header().Set("Content-Length", fmt.Sprint(r.body.Len()))
	w.WriteHeader(r.code)
	_, _ = w.Write(r.body.Bytes()) // the client may be gone
}
