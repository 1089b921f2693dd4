// SPDX-License-Identifier: MIT

package host

// LockHeld is false: nix-darwin's activation takes no lock.
func LockHeld() bool { return false }
