// SPDX-License-Identifier: AGPL-3.0-only

package loop

import "sync"

// Notifier wakes everyone who waits for something to happen.
type Notifier struct {
	mu   sync.Mutex
	next chan struct{}
}

func newNotifier() *Notifier { return &Notifier{next: make(chan struct{})} }

// Next returns a channel that is closed at the next Notify.
func (n *Notifier) Next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.next
}

// Notify wakes those who wait now.
func (n *Notifier) Notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.next)
	n.next = make(chan struct{})
}
