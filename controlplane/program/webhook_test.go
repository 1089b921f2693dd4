// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Webhooks' messages outlive kill -9 of the control plane: one that is on its way, and
// one that was audited and not sent yet. The same message has the same id.
func TestWebhooks_OutliveAControlPlaneThatIsKilled(t *testing.T) {
	c := control{place: newPlace(t)}
	c.start()
	secret, err := os.ReadFile(filepath.Join(c.dir, "bootstrap-secret"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "root"})
	if err != nil {
		t.Fatal(err)
	}
	admin := c.client(key.Secret)

	var mu sync.Mutex
	var hook api.NewWebhook
	holding, got := true, []string{}
	came := make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, broken := io.ReadAll(r.Body)
		if broken != nil {
			return
		}
		mu.Lock()
		hold := holding
		if refused := api.VerifyWebhook(hook.Secret, r.Header, body, time.Now()); refused != nil {
			t.Errorf("signature: %v", refused)
		}
		got = append(got, r.Header.Get(api.WebhookIDHeader))
		mu.Unlock()
		if hold {
			came <- struct{}{}
			<-r.Context().Done()
		}
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	mu.Lock()
	hook, err = admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: "http://" + l.Addr().String(), Events: []string{"machine.*"}})
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}); err != nil {
		t.Fatal(err)
	}
	<-came
	if _, err = admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-02"}); err != nil {
		t.Fatal(err)
	}
	if err = c.p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.p.Done()
	mu.Lock()
	holding = false
	before := slices.Clone(got)
	mu.Unlock()
	c.start()
	until(t, time.Minute, lookEvery, "both were sent", func() bool {
		mu.Lock()
		defer mu.Unlock()
		distinct := slices.Compact(slices.Sorted(slices.Values(got)))
		return len(got) >= 3 && len(distinct) == 2
	})
	mu.Lock()
	defer mu.Unlock()
	if len(before) != 1 || !slices.Contains(got[1:], before[0]) {
		t.Errorf("%q was on its way, then %q came", before, got[1:])
	}
}
