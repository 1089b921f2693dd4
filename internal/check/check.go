// SPDX-License-Identifier: MIT

// Package check runs the health checks that a machine's system declares: a probe
// runs a check once, a tracker decides from its probes whether it passes or fails.
//
// It never decides what follows from that, and never runs a shell.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Prober runs checks. Its zero value is ready to use. It remembers how often units
// have restarted, so that one that restarts again and again does not pass.
type Prober struct {
	mu       sync.Mutex
	restarts map[string]int
}

// Probe runs c once, for at most its timeout. observed describes the result, for
// people.
func (p *Prober) Probe(ctx context.Context, c fleet.HealthCheck) (ok bool, observed string) {
	ctx, cancel := context.WithTimeout(ctx, seconds(c.TimeoutSeconds))
	defer cancel()
	switch c.Kind {
	case fleet.HealthCheckUnit:
		ok, observed = p.unit(ctx, c)
	case fleet.HealthCheckLaunchd:
		ok, observed = launchd(ctx, c)
	case fleet.HealthCheckHTTP:
		ok, observed = httpGet(ctx, c)
	case fleet.HealthCheckTCP:
		ok, observed = tcp(ctx, c)
	case fleet.HealthCheckCommand:
		ok, observed = command(ctx, c)
	default:
		observed = "unknown kind of check " + strconv.Quote(string(c.Kind))
	}
	return ok, fleet.CleanText(observed, fleet.MaxObserved)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (p *Prober) unit(ctx context.Context, c fleet.HealthCheck) (bool, string) {
	v, err := Unit(ctx, c.Unit, "LoadState", "ActiveState", "SubState", "Result", "NRestarts")
	if err != nil {
		return false, late(ctx, c, err.Error())
	}
	if v["LoadState"] == "not-found" {
		return false, "unit " + c.Unit + " does not exist"
	}
	restarts, _ := strconv.Atoi(v["NRestarts"]) // not all units have it
	p.mu.Lock()
	before, seen := p.restarts[c.Name]
	if p.restarts == nil {
		p.restarts = map[string]int{}
	}
	p.restarts[c.Name] = restarts
	p.mu.Unlock()

	what := fmt.Sprintf("unit %s is %s (%s)", c.Unit, v["ActiveState"], v["SubState"])
	if r := v["Result"]; r != "" && r != "success" {
		what += ", result " + r
	}
	switch {
	case seen && restarts > before:
		return false, fmt.Sprintf("%s; restarted %d times since the last probe", what, restarts-before)
	case v["ActiveState"] == "active" || v["ActiveState"] == "reloading":
		return true, what
	}
	return false, what
}

// Unit reads properties of a systemd unit.
func Unit(ctx context.Context, unit string, properties ...string) (map[string]string, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "systemctl", Args: []string{"show", "--property=" + strings.Join(properties, ","), "--", unit}, MaxOutput: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("ask systemd for %s: %w", unit, err)
	}
	out := make(map[string]string, len(properties))
	for line := range strings.Lines(string(res.Stdout)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[k] = v
		}
	}
	return out, nil
}

func launchd(ctx context.Context, c fleet.HealthCheck) (bool, string) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "launchctl", Args: []string{"print", "system/" + c.Label}, MaxOutput: 64 << 10})
	if err != nil {
		return false, late(ctx, c, "launchd service "+c.Label+": "+err.Error())
	}
	// Loaded is not running: only a process is (nix-darwin#229).
	for line := range strings.Lines(string(res.Stdout)) {
		if pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid = "); ok {
			return true, "launchd service " + c.Label + " runs as process " + pid
		}
	}
	return false, "launchd service " + c.Label + " is loaded but has no process"
}

func httpGet(ctx context.Context, c fleet.HealthCheck) (bool, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return false, err.Error()
	}
	req.Header.Set("User-Agent", "nixfleet-agent")
	t := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	begin := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return false, late(ctx, c, "GET "+c.URL+": "+cause(err))
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // only shown to people
	what := fmt.Sprintf("GET %s answered %d in %d ms", c.URL, res.StatusCode, time.Since(begin).Milliseconds())
	good := res.StatusCode >= 200 && res.StatusCode < 400
	if c.ExpectStatus != 0 {
		if good = res.StatusCode == c.ExpectStatus; !good {
			what += fmt.Sprintf(", want %d", c.ExpectStatus)
		}
	}
	if text := strings.TrimSpace(string(body)); !good && text != "" {
		what += ": " + text
	}
	return good, what
}

func tcp(ctx context.Context, c fleet.HealthCheck) (bool, string) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return false, late(ctx, c, "connect to "+c.Address+": "+cause(err))
	}
	conn.Close()
	return true, c.Address + " accepts connections"
}

func command(ctx context.Context, c fleet.HealthCheck) (bool, string) {
	res, err := proc.Run(ctx, proc.Cmd{Path: c.Command[0], Args: c.Command[1:], MaxOutput: 2 << 10, Grace: 200 * time.Millisecond})
	said := strings.TrimSpace(string(res.Stdout) + string(res.Stderr))
	if said != "" {
		said = ": " + said
	}
	switch {
	case err == nil:
		return true, "exited 0" + said
	case ctx.Err() != nil:
		return false, late(ctx, c, "") + said
	case res.ExitCode > 0:
		return false, fmt.Sprintf("exited %d%s", res.ExitCode, said)
	}
	return false, err.Error()
}

// late says that a probe timed out, if that is why it failed.
func late(ctx context.Context, c fleet.HealthCheck, otherwise string) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %g s", c.TimeoutSeconds)
	}
	return otherwise
}

// cause returns the innermost error, since the caller names the operation.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(u) {
		err = u
	}
	return err.Error()
}
