// SPDX-License-Identifier: MIT

// Program nixfleet-agent is what runs on each machine of a fleet.
package main

import (
	"github.com/arcanesys/nixfleet/internal/agent/program"
	"github.com/arcanesys/nixfleet/internal/command"
)

// version is set by the linker.
var version = "dev"

func main() { command.Main(version, program.Main) }
