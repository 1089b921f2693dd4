// SPDX-License-Identifier: MIT

// Program nixfleet is what an operator types.
package main

import (
	"github.com/arcanesys/nixfleet/internal/cli"
	"github.com/arcanesys/nixfleet/internal/command"
)

// version is set by the linker.
var version = "dev"

func main() { command.Main(version, cli.Run) }
