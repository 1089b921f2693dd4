// SPDX-License-Identifier: MIT

package testbed

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// HubAddr is the hub's address; hosts also know it by the name "hub".
func (tb *Testbed) HubAddr() netip.Addr { return tb.network.Addr().Next() }

// HubCommand is c as a program that runs in the hub's network, and otherwise on the
// machine as it is; for proc.Run and proc.Start. It dies with the testbed. The process
// id that proc knows is that of its parent, nsenter, in the same process group.
func (tb *Testbed) HubCommand(c proc.Cmd) proc.Cmd {
	return enter(c, tb.keeper.Pid(), "-n", "-p")
}

// Hub runs a program in the hub's network and waits for its end.
func (tb *Testbed) Hub(ctx context.Context, c proc.Cmd) (proc.Result, error) {
	return proc.Run(ctx, tb.HubCommand(c))
}

// ListenHub listens in the hub's network, so that a server in this program can be
// reached by the hosts. The address is numeric; without a host it is all of the hub's.
func (tb *Testbed) ListenHub(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := inNetwork(tb.netns, func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in hub: %w", err)
	}
	return l, nil
}

// DialHub connects from the hub to an address there or on a host, which may be given
// by its name. It has the signature of http.Transport.DialContext.
func (tb *Testbed) DialHub(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial from hub: %w", err)
	}
	addr, err := tb.resolve(name)
	if err != nil {
		return nil, fmt.Errorf("dial from hub: %w", err)
	}
	var c net.Conn
	err = inNetwork(tb.netns, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from hub: %w", err)
	}
	return c, nil
}

func (tb *Testbed) resolve(name string) (netip.Addr, error) {
	switch name {
	case "hub", "":
		return tb.HubAddr(), nil
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	for _, h := range tb.Hosts() {
		if h.name == name {
			return h.addr, nil
		}
	}
	return netip.ParseAddr(name)
}
