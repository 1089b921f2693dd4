// SPDX-License-Identifier: AGPL-3.0-only

// Program nixfleet-control-plane is the control plane of a fleet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/arcanesys/nixfleet/controlplane/program"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program.Main(ctx, program.Invocation{Version: version, Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}
