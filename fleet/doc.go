// SPDX-License-Identifier: MIT

// Package fleet holds the nouns of NixFleet: machines, releases, rollouts,
// checks, reports, audit events and the error codes. There is one Go type for
// each thing, used on the wire, in the store, in --json output and in
// templates, together with what makes a value of it valid.
//
// It never does I/O, never reads a clock and imports only the standard
// library.
package fleet
