// SPDX-License-Identifier: MIT

//go:build !linux

package testbed

import (
	"errors"
	"os"
	"syscall"
)

const onLinux = false

func keeperAttr() *syscall.SysProcAttr { return nil }

func inNetwork(*os.File, func() error) error { return errors.ErrUnsupported }
