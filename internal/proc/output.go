// SPDX-License-Identifier: MIT

package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const maxLine = 64 << 10

// capture reads one output stream of a program.
type capture struct {
	read   *os.File // nil when the program writes to a file of the caller's
	write  *os.File
	own    bool // write is ours to close
	to     io.Writer
	kept   headTail
	stream Stream
	onLine func(Stream, string)
	mu     *sync.Mutex // one call of onLine at a time
	line   []byte
	fault  error
	done   chan struct{}
}

func newCapture(c Cmd, stream Stream, to io.Writer, mu *sync.Mutex) (*capture, error) {
	limit := c.MaxOutput
	if limit == 0 {
		limit = defaultMaxOutput
	}
	o := &capture{to: to, kept: headTail{limit: limit}, stream: stream, onLine: c.OnLine, mu: mu, done: make(chan struct{})}
	if f, ok := to.(*os.File); ok {
		o.write = f
		return o, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	o.read, o.write, o.own = r, w, true
	return o, nil
}

// close is for a program that could not be started.
func (o *capture) close() {
	if o.own {
		o.write.Close()
		o.read.Close()
	}
}

// run reads until no process holds the pipe's other end, or finish ends it.
func (o *capture) run() {
	defer close(o.done)
	if !o.own {
		return
	}
	o.write.Close()
	defer o.read.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := o.read.Read(buf)
		o.take(buf[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				o.fault = err
			}
			break
		}
	}
	if len(o.line) > 0 {
		o.emit(o.line)
	}
}

func (o *capture) take(b []byte) {
	if o.to != nil {
		if o.fault == nil { // keep reading after an error: the program must not hang
			_, o.fault = o.to.Write(b)
		}
		return
	}
	o.kept.add(b)
	if o.onLine == nil {
		return
	}
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte("\n"))
		o.line, b = append(o.line, part...), rest
		for len(o.line) > maxLine {
			o.emit(o.line[:maxLine])
			o.line = append(o.line[:0], o.line[maxLine:]...)
		}
		if ended {
			o.emit(o.line)
			o.line = o.line[:0]
		}
	}
}

func (o *capture) emit(line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.onLine(o.stream, string(line))
}

// finish waits for the rest of the output once the program has ended.
func (o *capture) finish() {
	if o.own {
		// An error means that it is closed already.
		_ = o.read.SetReadDeadline(time.Now().Add(drainTime))
	}
	<-o.done
}

// headTail keeps the beginning and the end of what is added to it.
type headTail struct {
	limit int
	head  []byte
	tail  []byte // circular once it is full; next is its oldest byte
	next  int
	left  int64 // bytes left out
}

func (h *headTail) add(b []byte) {
	if room := h.limit/2 - len(h.head); room > 0 {
		n := min(room, len(b))
		h.head = append(h.head, b[:n]...)
		b = b[n:]
	}
	size := h.limit - h.limit/2
	if room := size - len(h.tail); room > 0 {
		n := min(room, len(b))
		h.tail = append(h.tail, b[:n]...)
		b = b[n:]
	}
	h.left += int64(len(b))
	if len(b) >= size {
		copy(h.tail, b[len(b)-size:])
		h.next = 0
		return
	}
	n := copy(h.tail[h.next:], b)
	copy(h.tail, b[n:])
	h.next = (h.next + len(b)) % max(size, 1)
}

func (h *headTail) bytes() []byte {
	if h.left == 0 {
		return append(h.head, h.tail...)
	}
	out := append([]byte(nil), h.head...)
	out = fmt.Appendf(out, "\n[... %d bytes left out ...]\n", h.left)
	out = append(out, h.tail[h.next:]...)
	return append(out, h.tail[:h.next]...)
}
