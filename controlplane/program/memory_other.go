// SPDX-License-Identifier: AGPL-3.0-only

//go:build !linux

package program

// machineMemory is not known: the runtime keeps its default.
func machineMemory() uint64 { return 0 }
