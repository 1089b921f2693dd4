// SPDX-License-Identifier: MIT

// Package trust decides what a machine may run: it signs, parses and verifies
// the documents of a fleet (DSSE envelopes, ed25519), keeps the root chain,
// proves an entry's place in a release (Merkle tree, RFC 6962) and judges an
// offered release against what a machine knows.
//
// It never does I/O and never reads a clock: times are parameters, in Unix
// milliseconds, and every verdict is a function of its arguments.
package trust
