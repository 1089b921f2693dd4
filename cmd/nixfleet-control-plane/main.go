// SPDX-License-Identifier: AGPL-3.0-only

// Command nixfleet-control-plane is the control plane of a fleet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/arcanesys/nixfleet/controlplane/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
