// SPDX-License-Identifier: MIT

package signer

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzParseSSHKey reads a .pub file that a signer sends: what is taken is an ed25519
// key, and its comment, which becomes the key's name, fits a terminal.
func FuzzParseSSHKey(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f alice@example.org\n")
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f \x1b[2J\n")
	f.Add("command=\"x\" ssh-rsa AAAA")
	f.Fuzz(func(t *testing.T, line string) {
		k, err := ParseSSHKey(line)
		if err != nil {
			return
		}
		if len(k.Key) != 32 || strings.ContainsFunc(k.String(), unicode.IsControl) {
			t.Fatalf("%q is %q", line, k)
		}
	})
}
