// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// hostsEnv has the numbers of hosts of the releases to register, such as
// 100000,200000.
const hostsEnv = "NIXFLEET_BENCH_RELEASE"

// memoryPerHost is how many KiB a host of a release may take at the most. Its entry
// has 530 bytes. In a rush the heap may grow to twice what lives in it.
const memoryPerHost = 3

// A release for very many machines takes little more memory than its entries have,
// also while it is registered, and each machine gets its own part of it.
func TestRelease_OfAWholeFleetTakesLittleMemory(t *testing.T) {
	sizes := []int{40_000}
	if v := os.Getenv(hostsEnv); v != "" {
		sizes = nil
		for n := range strings.SplitSeq(v, ",") {
			sizes = append(sizes, must(strconv.Atoi(n))(t))
		}
	}
	for _, hosts := range sizes {
		t.Run(fmt.Sprint(hosts), func(t *testing.T) { registerRelease(t, hosts) })
	}
}

// pool has the CA of a control plane that has started.
func (c *control) pool() *x509.CertPool {
	c.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must(os.ReadFile(filepath.Join(c.dir, "ca.pem")))(c.t))
	return pool
}

func registerRelease(t *testing.T, hosts int) {
	b := &bench{root: t, t: t, control: control{root: t, place: newPlace(t)}, fleet: trusttest.New(t, "acme", nil)}
	machines := must(makeMachines(b.place, "m", 1))(t)
	check(t, enrol(b.place, machines))
	m := machines[0]
	b.start()
	secret := must(os.ReadFile(filepath.Join(b.dir, "bootstrap-secret")))(t)
	key := must(b.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "bench"}))(t)
	b.admin = b.client(key.Secret)
	must(b.admin.PutRoot(t.Context(), b.fleet.RootEnvelope))(t)
	request := func() api.ReleaseRequest {
		entries := make([]fleet.Entry, hosts)
		for i := range entries {
			entries[i] = trusttest.Entry(fleet.MachineID(fmt.Sprintf("m-%05d", i)), "large")
			entries[i].Tags = []fleet.Tag{"datacenter-frankfurt-2", "environment-production", "operating-hours-day", "owner-team-platform", "rack-17", "role-webserver", "tier-3", "wave-2"}
		}
		h := b.fleet.Header(1)
		h.CreatedAt, h.Expires = time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(24*time.Hour).UnixMilli()
		envelope, raw := b.fleet.Unchecked(h, entries, "acme-release")
		t.Logf("an entry has %d bytes", len(raw[0]))
		return api.ReleaseRequest{Envelope: envelope, Entries: raw}
	}()
	runtime.GC()
	before, cpu, begin := b.memory("VmHWM:"), b.cpu(), time.Now()
	r := must(b.admin.CreateRelease(context.Background(), request))(t)
	took := time.Since(begin)
	most := b.memory("VmHWM:")
	t.Logf("%d hosts: %d MiB at the most, %d MiB after, in %s, %s of CPU", hosts, most/1024, b.rss(), took.Round(time.Millisecond), b.cpu()-cpu)
	if per := float64(most-before) / float64(hosts); per > memoryPerHost*raceDetector {
		t.Errorf("%.2f KiB a host", per)
	}
	agent := must(api.NewAgentClient(api.AgentClientConfig{BaseURL: "https://" + b.agents, TLS: &tls.Config{
		RootCAs: b.pool(), Certificates: []tls.Certificate{{Certificate: [][]byte{m.Certificate}, PrivateKey: m.Key}},
	}}))(t)
	for range 2 { // the second time, nothing is in memory
		var bundle trust.Bundle
		check(t, json.Unmarshal(must(agent.Release(t.Context(), r.Digest))(t), &bundle))
		if string(bundle.Entry) != string(request.Entries[0]) {
			t.Fatalf("the machine got %s", bundle.Entry)
		}
		if err := bundle.Proof.Verify(r.Header.Entries.Root, bundle.Entry); err != nil {
			t.Fatal(err)
		}
		b.stop()
		b.start()
	}
}
