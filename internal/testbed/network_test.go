// SPDX-License-Identifier: MIT

package testbed_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// serve serves in the hub until the test ends and returns the URL for hosts.
func serve(ctx context.Context, t *testing.T, tb *testbed.Testbed, h http.Handler) string {
	t.Helper()
	l, err := tb.ListenHub(ctx, "tcp", tb.HubAddr().String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return "http://" + l.Addr().String()
}

func newCache(t *testing.T, name string) *testbed.Cache {
	t.Helper()
	c, err := testbed.NewCache(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m machine) fetch(url, key, path string) (string, int) {
	m.t.Helper()
	return m.sh(fmt.Sprintf("timeout 50 nix copy --from %s --option trusted-public-keys '%s' --option connect-timeout 2 --option download-attempts 1 %s", url, key, path))
}

func TestCache_IsFetchedFromAndItsKeyIsChecked(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	cache, other := newCache(t, "cache-1"), newCache(t, "cache-1")
	one := build(t, tb, testbed.System{})
	if err := cache.Push(ctx, one); err != nil {
		t.Fatal(err)
	}
	url := serve(ctx, t, tb, cache.Handler())
	a, b := create(ctx, t, tb, testbed.Spec{Name: "a"}), create(ctx, t, tb, testbed.Spec{Name: "b"})
	if out, code := a.fetch(url, cache.PublicKey(), one); code != 0 {
		t.Errorf("fetch: %d %s", code, out)
	}
	a.is("nix-store --verify-path $(nix-store -qR "+one+") && echo sound", "sound")
	out, code := b.fetch(url, other.PublicKey(), one)
	if code == 0 || !strings.Contains(out, "signature") {
		t.Errorf("fetch with another key: %d %s, want a refusal", code, out)
	}
	b.is("nix-store --check-validity "+one+" 2> /dev/null || echo invalid", "invalid")
}

func TestNetwork_ReachesHubAndHostsAndNothingElse(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	url := serve(ctx, t, tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Split(r.RemoteAddr, ":")[0])
	}))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, b := create(ctx, t, tb, testbed.Spec{Name: "a", Binds: []string{filepath.Dir(self)}}), create(ctx, t, tb, testbed.Spec{Name: "b"})
	const get = "timeout 5 bash -c 'exec 3<> /dev/tcp/%s/%s && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && tail -n 1 <&3' 2> /dev/null"
	port := url[strings.LastIndex(url, ":")+1:]
	fromHub := fmt.Sprintf(get, "hub", port)
	a.is(fromHub, a.IP().String())
	b.is(fromHub, b.IP().String())

	// A server on a host, seen from the hub and from another host.
	p, err := a.Command(proc.Cmd{Path: self, Env: []string{serverEnv + "=/etc/nix"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	server, err := proc.Start(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer stop()
	b.eventually("timeout 5 bash -c 'exec 3<> /dev/tcp/a/8000' 2> /dev/null && echo there", "there")
	client := http.Client{Transport: &http.Transport{DialContext: tb.DialHub}, Timeout: waitLimit}
	res, err := client.Get("http://a:8000/nix.conf")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(body), "sandbox = false") {
		t.Errorf("body %q, error %v", body, err)
	}
	if _, err = tb.DialHub(ctx, "tcp", "nobody:80"); err == nil {
		t.Error("a host that does not exist was dialled")
	}
	out, err := tb.Hub(ctx, proc.Cmd{Path: "ip", Args: []string{"-br", "addr", "show", "br0"}})
	if err != nil || !strings.Contains(string(out.Stdout), tb.HubAddr().String()) {
		t.Errorf("hub: %s %v", out.Stdout, err)
	}
	if out, code := a.sh("timeout 5 bash -c 'exec 3<> /dev/tcp/192.0.2.1/80'"); code == 0 || !strings.Contains(out, "unreachable") {
		t.Errorf("out of the network: %d %s", code, out)
	}
}

// A hub that changed its address when a host is turned on or off would be out
// of the others' reach for seconds.
func TestHub_StaysTheSameWhenHostsComeAndGo(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	address := func() string {
		t.Helper()
		out, err := tb.Hub(ctx, proc.Cmd{Path: "ip", Args: []string{"-o", "link", "show", "br0"}})
		_, after, ok := strings.Cut(string(out.Stdout), "link/ether ")
		if err != nil || !ok {
			t.Fatalf("hub: %s %v", out.Stdout, err)
		}
		return strings.Fields(after)[0]
	}
	before := address()
	a := create(ctx, t, tb, testbed.Spec{Name: "a"})
	if got := address(); got != before {
		t.Errorf("the hub's address is %s with a host, %s before", got, before)
	}
	if err := a.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	if got := address(); got != before {
		t.Errorf("the hub's address is %s without the host, %s before", got, before)
	}
}

func TestCable_StaysOutOverAPowerFailure(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	url := serve(ctx, t, tb, http.NotFoundHandler())
	ask := "timeout 5 bash -c 'exec 3<> /dev/tcp/hub/" + url[strings.LastIndex(url, ":")+1:] + "' 2> /dev/null && echo there"
	a, b := create(ctx, t, tb, testbed.Spec{Name: "a"}), create(ctx, t, tb, testbed.Spec{Name: "b"})
	cable := func(c testbed.Cable) {
		t.Helper()
		if err := a.Cable(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	a.is(ask, "there")
	cable(testbed.CableOut)
	a.is(strings.Replace(ask, "timeout 5", "timeout 1", 1), "")
	b.is(ask, "there")
	if err := a.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	a.is("cat /sys/class/net/eth0/carrier", "0")
	cable(testbed.CableIn)
	a.eventually(ask, "there")
}

func TestCable_LimitsTheRate(t *testing.T) {
	t.Parallel()
	ctx, tb := newBed(t)
	const size = 1 << 20
	url := serve(ctx, t, tb, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) }))
	a := create(ctx, t, tb, testbed.Spec{Name: "a"})
	if err := a.Cable(ctx, "8mbit"); err != nil {
		t.Fatal(err)
	}
	port := url[strings.LastIndex(url, ":")+1:]
	start := time.Now()
	a.is("bash -c 'exec 3<> /dev/tcp/hub/"+port+" && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && cat <&3' | tail -c "+fmt.Sprint(size)+" | wc -c", fmt.Sprint(size))
	if d := time.Since(start); d < 700*time.Millisecond {
		t.Errorf("1 MiB over 8 Mbit/s took only %s", d)
	}
	if err := a.Cable(ctx, "nonsense"); err == nil {
		t.Error("a rate that is none was taken")
	}
}

func TestTestbeds_DoNotMeet(t *testing.T) {
	t.Parallel()
	ctx, one := newBed(t)
	_, two := newBed(t)
	a, b := create(ctx, t, one, testbed.Spec{Name: "same"}), create(ctx, t, two, testbed.Spec{Name: "same"})
	if a.IP() != b.IP() || one.Dir() == two.Dir() {
		t.Fatalf("addresses %s %s, folders %s %s", a.IP(), b.IP(), one.Dir(), two.Dir())
	}
	for i, tb := range []*testbed.Testbed{one, two} {
		l, err := tb.ListenHub(ctx, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })}
		defer s.Close()
		go s.Serve(l)
	}
	const ask = "bash -c 'exec 3<> /dev/tcp/hub/80 && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && tail -n 1 <&3'"
	a.is(ask, "0")
	b.is(ask, "1")
}
