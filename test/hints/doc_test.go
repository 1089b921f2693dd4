// SPDX-License-Identifier: MIT

// Package hints finds every command line that a page, a message or a comment
// names, and fails if there is no such command. What it knows of the programs
// comes from the programs themselves: their trees of commands and flags, the
// targets of the Makefile, the apps and templates of the flake.
//
// It never runs a command that it finds.
package hints
