// SPDX-License-Identifier: MIT

// Program nixfleet is what an operator types.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/arcanesys/nixfleet/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Config{Version: version, Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Getenv})
	stop()
	os.Exit(code)
}
