// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/internal/config"
)

// A machine that lost its power ends no connection: the kernel asks it, after 15
// seconds of silence, and gives it up within 15 more.
func TestListen_ProbesSilentConnections(t *testing.T) {
	any0 := "127.0.0.1:0"
	sockets, err := server.Listen(t.Context(), config.Listen{Operators: any0, Agents: any0, Metrics: any0})
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	var d net.Dialer
	client, err := d.DialContext(t.Context(), "tcp", sockets.Agents.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := sockets.Agents.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, err := accepted.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (value int) {
		if e := raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, name) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		return value
	}
	on, idle := option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
	every, count := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
	if on == 0 || idle != 15 || every*count > 15 {
		t.Errorf("keep-alive %d: after %d seconds, %d times every %d seconds", on, idle, count, every)
	}
}
