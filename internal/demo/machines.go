// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// Host is a host in hosts.json: arguments of system.nix.
type Host struct {
	System     fleet.System      `json:"system"`
	Generation string            `json:"generation"`
	Fault      string            `json:"fault,omitempty"`
	Kernel     string            `json:"kernel,omitempty"`
	PayloadMiB int               `json:"payloadMiB,omitempty"`
	NewAgent   bool              `json:"newAgent,omitempty"` // another build of the agent
	Files      map[string]string `json:"files"`
}

// Systems is one state of the flake: the same generation everywhere, edited on
// some machines.
func (s *Scene) Systems(generation string, edits map[fleet.MachineID]func(*Host)) map[fleet.MachineID]Host {
	out := map[fleet.MachineID]Host{}
	for _, m := range s.Cast {
		h := Host{System: platform(), Generation: generation, Files: map[string]string{"nixfleet/agent.toml": s.agentTOML(m)}}
		if edit := edits[m.ID]; edit != nil {
			edit(&h)
		}
		out[m.ID] = h
	}
	return out
}

// Faulty is an edit for Systems that adds one of the faults of system.nix.
func Faulty(fault string) func(*Host) { return func(h *Host) { h.Fault = fault } }

// platform is this machine's, for which its Nix builds.
func platform() fleet.System {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}

// agentTOML is a machine's agent configuration, with a check of its service.
func (s *Scene) agentTOML(m Actor) string {
	words := make([]string, len(m.Tags))
	for i, t := range m.Tags {
		words[i] = fmt.Sprintf("%q", t)
	}
	return fmt.Sprintf(`machineId = %q
tags = [%s]
[controlPlane]
url = %q
longPollSeconds = 30
pollSeconds = 1
[identity]
tokenFile = %q
[trust]
rootFile = "/etc/nixfleet/root.json"
[confirm]
deadlineSeconds = 6
beacons = ["tcp://%s:%d"]
[reboot]
policy = %q
[checks.app]
kind = "unit"
unit = "app.service"
intervalSeconds = 0.5
timeoutSeconds = 2
retries = 1
successes = 3
`, m.ID, strings.Join(words, ", "), s.agentsURL(), tokenFile, s.TB.HubAddr(), cachePort, first(m.Reboot, "never"))
}

// Boot makes the machines with their first system and a token, and boots them: each
// enrols by itself.
func (s *Scene) Boot(ctx context.Context) error {
	first, err := s.buildSystems(ctx, s.Systems("0", nil))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range s.Cast {
		g.Go(func() error {
			h, err := s.TB.Create(ctx, testbed.Spec{Name: string(m.ID), System: string(first[m.ID]), Off: true})
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.hosts[m.ID], s.expect[m.ID] = h, first[m.ID]
			s.mu.Unlock()
			if err := s.putToken(ctx, m.ID, h); err != nil {
				return err
			}
			if err := h.Boot(ctx); err != nil {
				return err
			}
			if _, err := h.Wait(ctx); err != nil {
				return err
			}
			return s.enrolled(ctx, m.ID)
		})
	}
	return g.Wait()
}

// tokenFile is where the machines' configuration says that their token is.
const tokenFile = "/var/lib/nixfleet/token"

// putToken puts a token on a machine that is off, as an installation does.
func (s *Scene) putToken(ctx context.Context, id fleet.MachineID, h *testbed.Host) error {
	var token api.Token
	if _, err := s.Nixfleet(ctx, &token, "machine", "token", string(id)); err != nil {
		return err
	}
	return h.WriteFile(ctx, tokenFile, []byte(token.Token), 0o600)
}

// enrolled waits until a machine has enrolled and checked in.
func (s *Scene) enrolled(ctx context.Context, id fleet.MachineID) error {
	return s.Until(ctx, 20*time.Second, fmt.Sprintf("%s has checked in", id), func(ctx context.Context) error {
		var m fleet.Machine
		if _, err := s.Nixfleet(ctx, &m, "machine", "show", string(id)); err != nil {
			return err
		}
		if m.Lifecycle != fleet.Active || m.Running != s.expected(id) {
			return fmt.Errorf("it is %s and runs %q", m.Lifecycle, m.Running)
		}
		return nil
	})
}

func (s *Scene) expected(id fleet.MachineID) fleet.StorePath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expect[id]
}

// buildSystems builds a state of the flake without making a release.
func (s *Scene) buildSystems(ctx context.Context, hosts map[fleet.MachineID]Host) (map[fleet.MachineID]fleet.StorePath, error) {
	if err := s.writeHosts(hosts); err != nil {
		return nil, err
	}
	out := map[fleet.MachineID]fleet.StorePath{}
	args := []string{"build", "--no-link", "--json"}
	ids := slices.Sorted(maps.Keys(hosts))
	for _, id := range ids {
		args = append(args, fmt.Sprintf("path:%s#nixosConfigurations.%q.config.system.build.toplevel", s.flakeDir(), id))
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args, Env: s.env})
	if err != nil {
		return nil, fmt.Errorf("build first systems: %s", bytes.TrimSpace(res.Stderr))
	}
	var built []struct {
		Outputs map[string]fleet.StorePath `json:"outputs"`
	}
	if err := json.Unmarshal(res.Stdout, &built); err != nil || len(built) != len(ids) {
		return nil, fmt.Errorf("build first systems: %q: %w", res.Stdout, err)
	}
	for i, id := range ids {
		out[id] = built[i].Outputs["out"]
	}
	return out, s.remember(ctx, slices.Collect(maps.Values(out))...)
}

func (s *Scene) writeHosts(hosts map[fleet.MachineID]Host) error {
	b, err := json.MarshalIndent(hosts, "", "  ")
	if err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.flakeDir(), "hosts.json"), b, 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	return nil
}

// Made is a release and the system that it has for each machine.
type Made struct {
	Digest   fleet.Digest                        `json:"digest"`
	Machines map[fleet.MachineID]fleet.StorePath `json:"machines"`
}

// Release evaluates, builds, pushes, signs and registers a state of the flake.
func (s *Scene) Release(ctx context.Context, name string, hosts map[fleet.MachineID]Host) (Made, error) {
	return s.ReleaseBy(ctx, hosts, func() (r Made, err error) {
		_, err = s.Nixfleet(ctx, &r, "release", "create", "--name", name, "--sign-key", filepath.Join(s.Dir, "trust", "keys", "release.sec"))
		return r, err
	})
}

// ReleaseBy is Release with commands of one's own.
func (s *Scene) ReleaseBy(ctx context.Context, hosts map[fleet.MachineID]Host, create func() (Made, error)) (Made, error) {
	if err := s.writeHosts(hosts); err != nil {
		return Made{}, err
	}
	r, err := create()
	if err != nil {
		return Made{}, err
	}
	return r, s.remember(ctx, slices.Collect(maps.Values(r.Machines))...)
}

// Running reads from the machine itself what it runs.
func (s *Scene) Running(ctx context.Context, id fleet.MachineID) (fleet.StorePath, error) {
	res, err := s.Host(id).Exec(ctx, proc.Cmd{Path: "readlink", Args: []string{"/run/current-system"}})
	return fleet.StorePath(strings.TrimSpace(string(res.Stdout))), err
}

// Host is the machine in the testbed.
func (s *Scene) Host(id fleet.MachineID) *testbed.Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[id]
}

// Expect records that the machines of a release should run its systems.
func (s *Scene) Expect(r Made) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.expect, r.Machines)
}

// Compare reads from every machine what it runs. The error names the machines that
// do not run what they should.
func (s *Scene) Compare(ctx context.Context) error {
	var errs []error
	for _, m := range s.Cast {
		running, err := s.Running(ctx, m.ID)
		if want := s.expected(m.ID); err == nil && running != want {
			err = fmt.Errorf("%s runs %s, expected %s", m.ID, running, want)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
