// SPDX-License-Identifier: MIT

package fleet

import "net/netip"

// Inventory is what a machine says of itself that is not about systems. It counts
// for nothing. A field is zero where the machine did not say.
type Inventory struct {
	BootedAt int64  `json:"bootedAt,omitempty"` // Unix milliseconds, by the machine's clock; its uptime counts from there
	Kernel   string `json:"kernel,omitempty"`   // release of the kernel that runs
	Address  string `json:"address,omitempty"`  // from which it speaks to the control plane, as the machine has it
	DiskFree int64  `json:"diskFree,omitempty"` // bytes that the Nix store can still take; to about a tenth
}

func (v *Inventory) clean(left *[]string) {
	v.Kernel = CleanLine(v.Kernel, 128)
	if _, err := netip.ParseAddr(v.Address); err != nil && v.Address != "" {
		v.Address = ""
		*left = append(*left, "address")
	}
	v.BootedAt, v.DiskFree = max(0, v.BootedAt), max(0, v.DiskFree)
}
