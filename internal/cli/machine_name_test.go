// SPDX-License-Identifier: MIT

package cli

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// rename answers what makes a machine or is about its name, and keeps what it was asked.
func (p *plane) rename(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.named = append(p.named, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1/")+" "+string(b))
	reply(w, machine("web-01"))
}

func TestMachine_NamesAndInventory(t *testing.T) {
	p := newPlane(t)
	said, silent := machine("web-01"), machine("web-02")
	said.Inventory = &fleet.Inventory{BootedAt: 1, Kernel: "6.12.1", Address: "10.0.0.7", DiskFree: 5 << 30}
	p.machines = []fleet.Machine{said, silent}
	u := newUser(t).of(p)
	if r := u.mustRun(command.ExitDone, "machine", "rename", "web-1", "web-01"); !strings.Contains(r.out, "web-1 is now web-01") || !strings.Contains(r.stderr, "machine token web-01") {
		t.Errorf("rename prints %q and says %q", r.out, r.stderr)
	}
	u.mustRun(command.ExitUsage, "machine", "rename", "web-1", "Web_1")
	u.mustRun(command.ExitDone, "machine", "delete", "wbe-01")
	u.mustRun(command.ExitDone, "machine", "register", "web-09", "--tag", "prod")
	u.mustRun(command.ExitDone, "machine", "register", "web-09", "--lifecycle", "active")
	for _, state := range []string{"maintenance", "decommissioned", "", "Active"} {
		u.mustRun(command.ExitUsage, "machine", "register", "web-09", "--lifecycle", state)
	}
	if want := []string{`POST machines/web-1/rename {"to":"web-01"}`, `DELETE machines/wbe-01 `,
		`POST machines {"id":"web-09","lifecycle":"pending","tags":["prod"]}`, `POST machines {"id":"web-09","lifecycle":"active"}`}; !slices.Equal(p.named, want) {
		t.Errorf("asked for %q, want %q", p.named, want)
	}
	wide := u.mustRun(command.ExitDone, "machine", "list", "--wide").out
	for _, want := range []string{"10.0.0.7", "5.0GiB", "6.12.1", "DISK-FREE"} {
		if !strings.Contains(wide, want) || strings.Contains(u.mustRun(command.ExitDone, "machine", "list").out, want) {
			t.Errorf("%s is for the wide list:\n%s", want, wide)
		}
	}
	if r := u.mustRun(command.ExitDone, "machine", "show", "web-01"); !strings.Contains(r.out, "kernel        6.12.1") {
		t.Errorf("show prints %q", r.out)
	}
}
