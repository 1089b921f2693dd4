// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// controlPlaneName stands for the control plane in a baseline.
const controlPlaneName = "control-plane"

// checksOnly stands for the checks, which confirm a switch if nothing answered
// before it.
const checksOnly = "checks-only"

// reachLimit bounds one request.
const reachLimit = 5 * time.Second

// confirm waits until something that answered before the switch answers again. A
// machine that reaches its beacons must not roll back because the control plane is
// down, or the reverse (A10).
func (m *Machine) confirm(outer context.Context, j states.Journal) states.Input {
	work := j.Work
	if len(work.Baseline) == 0 {
		return states.Confirmed{By: checksOnly}
	}
	left := time.Duration((work.ConfirmUntil - m.Now().Boot) * float64(time.Second))
	ctx, cancel := context.WithTimeout(outer, max(left, reachLimit/5))
	defer cancel()
	by := make(chan string, len(work.Baseline))
	last := make(chan error, len(work.Baseline))
	for _, name := range work.Baseline {
		go func() {
			for {
				err := m.reach(ctx, name)
				if err == nil {
					by <- name
					return
				}
				if !wait.For(ctx, 250*time.Millisecond) {
					last <- fmt.Errorf("%s: %w", name, err)
					return
				}
			}
		}()
	}
	var failures []string
	for range work.Baseline {
		select {
		case name := <-by:
			return states.Confirmed{By: name}
		case err := <-last:
			failures = append(failures, err.Error())
		}
	}
	if message, fired := m.Fired(outer); fired {
		return states.WatchdogFired{Generations: m.Generations(), Message: message}
	}
	return states.Unconfirmed{Message: "nothing that answered before the switch answered after it\n" + strings.Join(failures, "\n")}
}

// reach returns nil if the thing with this name answers.
func (m *Machine) reach(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	if name == controlPlaneName {
		return m.Plane.Answers(ctx)
	}
	u, err := url.Parse(name)
	if err != nil {
		return err
	}
	if u.Scheme == "tcp" {
		var d net.Dialer
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "tcp", u.Host); err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, name, nil)
	if err != nil {
		return err
	}
	t := &http.Transport{DisableKeepAlives: true}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	return res.Body.Close() // any answer counts
}
