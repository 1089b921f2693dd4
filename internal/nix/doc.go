// SPDX-License-Identifier: MIT

// Package nix drives the nix programs and reads what they make: it evaluates
// and builds a flake's hosts, reads closures, pushes them to a cache, fetches
// them from one, and sets the system profile. It needs nothing but the programs
// nix, nix-store and nix-env, of Nix 2.8 or later.
//
// It never decides what a machine should run.
package nix
