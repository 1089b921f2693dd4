// SPDX-License-Identifier: MIT

package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

const machines = 100_000

// verification is what a machine needs to judge its part of a release for many: the
// median of 1,000 times, from the bytes that it got, and how many they are.
func verification() (us float64, size int, err error) {
	text, s, err := bundle()
	if err != nil {
		return 0, 0, err
	}
	now := time.Now().UnixMilli()
	took := make([]float64, 1000)
	for i := range took {
		began := time.Now()
		b, err := trust.ParseBundle(text)
		if err != nil {
			return 0, 0, err
		}
		if _, refusal := trust.Accept(s, now, b); refusal != nil {
			return 0, 0, refusal
		}
		took[i] = float64(time.Since(began).Nanoseconds()) / 1000
	}
	return median(took), len(text), nil
}

// bundle makes a release, and the part of a machine in its middle as it travels.
func bundle() (text []byte, s trust.State, err error) {
	rootKey, err := trust.Generate(rand.Reader, "bench-root-1")
	if err != nil {
		return nil, s, err
	}
	releaseKey, err := trust.Generate(rand.Reader, "bench-release-1")
	if err != nil {
		return nil, s, err
	}
	now := time.Now()
	root := fleet.Root{FleetID: "bench", Version: 1, Expires: now.Add(time.Hour).UnixMilli(), Keys: map[string]fleet.TrustKey{}, Roles: map[fleet.TrustRole]fleet.KeyQuota{}}
	for role, k := range map[fleet.TrustRole]trust.SecretKey{fleet.TrustRoleRoot: rootKey, fleet.TrustRoleRelease: releaseKey} {
		id := trust.KeyID(k.Public())
		root.Keys[id] = k.PublicKey().Trust()
		root.Roles[role] = fleet.KeyQuota{Keys: []string{id}, Threshold: 1}
	}
	entries := make([]fleet.Entry, machines)
	for i := range entries {
		entries[i] = entry(i)
	}
	header := fleet.Header{
		FleetID: "bench", Line: "main", Sequence: 7, PreviousDigest: fleet.SHA256(nil), Name: "2026-11 security updates",
		CreatedAt: now.Add(-time.Minute).UnixMilli(), Expires: now.Add(time.Hour).UnixMilli(),
		Source: fleet.Source{Flake: "git+https://git.example.org/infrastructure/fleet", Revision: strings.Repeat("ab", 20), LockDigest: fleet.SHA256(nil), NixpkgsDate: "2026-11-20"},
		Caches: []fleet.Cache{{URL: "https://cache.example.org", PublicKeys: []string{releaseKey.PublicKey().String(), rootKey.PublicKey().String()}}},
		Policy: fleet.Policy{ConfirmWindowMs: 120_000, RevertWindowMs: 86_400_000},
	}
	payload, raw, err := trust.NewRelease(header, entries)
	if err != nil {
		return nil, s, err
	}
	envelope, err := trust.Sign(fleet.TypeRelease, payload, releaseKey)
	if err != nil {
		return nil, s, err
	}
	const middle = machines / 2
	text, err = json.Marshal(trust.Bundle{Envelope: envelope.Encode(), Entry: raw[middle], Proof: trust.NewTree(raw).Prove(middle)})
	s = trust.State{Machine: entries[middle].ID, System: entries[middle].System, Line: "main", Root: &root, Floor: &trust.Floor{}}
	return text, s, err
}

// entry is one of a size that NixOS machines have.
func entry(i int) fleet.Entry {
	hash := strings.Repeat("0123456789abcdfg", 4)
	path := func(name string) string { return "/nix/store/" + hash[:32] + "-" + name }
	return fleet.Entry{
		ID: fleet.MachineID(fmt.Sprintf("machine-%06d", i)), System: "x86_64-linux",
		StorePath: fleet.StorePath(path(fmt.Sprintf("nixos-system-machine-%06d-26.05.20261120.abcdef1", i))),
		NarHash:   fleet.NarHash("sha256:" + hash[:52]), ClosureSize: 3 << 30, ClosureDigest: fleet.SHA256([]byte(fmt.Sprint(i))),
		Tags: []fleet.Tag{"prod", "site/paris", "web"},
		Fingerprints: fleet.Fingerprints{
			Kernel: path("linux-6.18.3/bzImage") + " " + path("linux-6.18.3-modules"), Initrd: path("initrd-linux-6.18.3/initrd"),
			Parameters: string(fleet.SHA256(nil)), Inhibitors: map[string]string{"dbus": "1.16.2", "systemd": "258.2"},
		},
	}
}
