// SPDX-License-Identifier: MIT

// Program trustbench measures what trust costs: a machine that judges a release of a
// large fleet, the control plane that meets machines, and the control plane that
// meets a hostile one. It runs the real nixfleet-control-plane as a process of its
// own and is the machines itself. The last line it prints is JSON. With -strict it
// fails if a figure is beyond its limit.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

// result is the last line. Us are microseconds: verifyUs of one machine, fullUs and
// resumedUs of the control plane's processor for each handshake with a check-in.
// Hostile* are those of the worst attack: memory above that of an idle control
// plane, and seconds of processor in ten seconds.
type result struct {
	VerifyUs     float64 `json:"verifyUs"`
	BundleBytes  int     `json:"bundleBytes"`
	FullUs       float64 `json:"fullUs"`
	ResumedUs    float64 `json:"resumedUs"`
	HostileRssMb float64 `json:"hostileRssMb"`
	HostileCPUS  float64 `json:"hostileCpuS"`
	Attacks      []cost  `json:"attacks"`
	// Load is how many programs wanted to run at the start (load average of a
	// minute): figures count on an idle machine only.
	Load   float64  `json:"load"`
	Missed []string `json:"missed"`
}

// missed names the figures that are beyond their limits.
func (r result) missed() []string {
	out := []string{}
	for _, f := range []struct {
		name       string
		got, limit float64
	}{
		{"verifyUs", r.VerifyUs, 1000}, {"bundleBytes", float64(r.BundleBytes), 6144}, {"fullUs", r.FullUs, 2000}, {"resumedUs", r.ResumedUs, 700},
		{"hostileRssMb", r.HostileRssMb, 64}, {"hostileCpuS", r.HostileCPUS, 1},
	} {
		if f.got > f.limit {
			out = append(out, fmt.Sprintf("%s %.1f > %.0f", f.name, f.got, f.limit))
		}
	}
	return out
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, complain io.Writer) int {
	flags := flag.NewFlagSet("trustbench", flag.ContinueOnError)
	flags.SetOutput(complain)
	program := flags.String("control-plane", "bin/nixfleet-control-plane", "the `program` to measure")
	strict := flags.Bool("strict", false, "fail if a figure is beyond its limit")
	span := flags.Duration("attack", 10*time.Second, "`how long` each attack lasts; the limits are for 10 s")
	only := flags.String("only", "", "measure what the attacks of these names, with commas, cost, and nothing else")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	r, err := measure(ctx, *program, *span, strings.FieldsFunc(*only, func(c rune) bool { return c == ',' }), complain)
	if err != nil {
		fmt.Fprintf(complain, "trustbench: %v\n", err)
		return exitFailed
	}
	r.Missed = r.missed()
	if err := json.NewEncoder(out).Encode(r); err != nil || *strict && len(r.Missed) > 0 {
		return exitFailed
	}
	return 0
}

func measure(ctx context.Context, program string, span time.Duration, only []string, complain io.Writer) (r result, err error) {
	say := func(format string, args ...any) { fmt.Fprintf(complain, format+"\n", args...) }
	if r.Load, err = load(); err != nil {
		return r, err
	}
	say("load of this machine: %.2f; figures count on an idle one only", r.Load)
	if len(only) == 0 {
		say("a release for 100,000 machines, verified by one of them 1,000 times ...")
		if r.VerifyUs, r.BundleBytes, err = verification(); err != nil {
			return r, err
		}
		say("  %.0f us, bundle of %d bytes", r.VerifyUs, r.BundleBytes)
		say("handshakes and check-ins, 1,000 of each kind ...")
		if r.FullUs, r.ResumedUs, err = handshakes(ctx, program); err != nil {
			return r, err
		}
		say("  full %.0f us, resumed %.0f us of the control plane's processor", r.FullUs, r.ResumedUs)
	}
	for _, a := range attacks {
		if len(only) > 0 && !slices.Contains(only, a.name) {
			continue
		}
		say("a hostile agent, %s, for %s ...", a.name, span)
		c, err := hostile(ctx, program, a, span)
		if err != nil {
			return r, fmt.Errorf("%s: %w", a.name, err)
		}
		say("  %d requests, %.1f MiB above idle, %.2f s of processor", c.Requests, c.RssMb, c.CPUS)
		r.Attacks = append(r.Attacks, c)
		r.HostileRssMb, r.HostileCPUS = max(r.HostileRssMb, c.RssMb), max(r.HostileCPUS, c.CPUS)
	}
	return r, nil
}

// load is the load average of the last minute (proc(5)).
func load() (float64, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, fmt.Errorf("read load: %w", err)
	}
	var one float64
	_, err = fmt.Sscan(string(b), &one)
	return one, err
}

// median returns the middle of some figures.
func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
