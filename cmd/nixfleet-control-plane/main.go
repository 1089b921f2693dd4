// SPDX-License-Identifier: AGPL-3.0-only

// Program nixfleet-control-plane is the control plane of a fleet.
package main

import (
	"github.com/arcanesys/nixfleet/controlplane/program"
	"github.com/arcanesys/nixfleet/internal/command"
)

// version is set by the linker.
var version = "dev"

func main() { command.Main(version, program.Main) }
