// SPDX-License-Identifier: MIT

package link

import (
	"context"

	"github.com/arcanesys/nixfleet/fleet"
)

// Answers returns nil if the control plane answers this machine.
func (l *Link) Answers(ctx context.Context) error {
	p, err := l.enrolled()
	if err != nil {
		return err
	}
	_, err = p.CheckIn(ctx, l.checkIn(0))
	return err
}

// Release fetches the bundle of a release for this machine.
func (l *Link) Release(ctx context.Context, d fleet.Digest) ([]byte, error) {
	p, err := l.enrolled()
	if err != nil {
		return nil, err
	}
	return p.Release(ctx, d)
}

// Document fetches a trust document.
func (l *Link) Document(ctx context.Context, d fleet.Digest) ([]byte, error) {
	p, err := l.enrolled()
	if err != nil {
		return nil, err
	}
	return p.Document(ctx, d)
}

// RootsAfter fetches the versions of the root document after the given one, in
// order.
func (l *Link) RootsAfter(ctx context.Context, version uint64) ([][]byte, error) {
	p, err := l.enrolled()
	if err != nil {
		return nil, err
	}
	const most = 100 // at a time
	var out [][]byte
	for range most {
		version++
		b, err := p.Root(ctx, version)
		if fleet.ErrorCode(err) == fleet.NotFound {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
