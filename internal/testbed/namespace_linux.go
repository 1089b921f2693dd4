// SPDX-License-Identifier: MIT

package testbed

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const onLinux = true

// keeperAttr makes the keeper PID 1 of its own namespaces.
func keeperAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
}

// inNetwork calls f in another network namespace. Sockets stay in the namespace in
// which they were made, so f makes one and returns.
func inNetwork(ns *os.File, f func() error) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			errs <- fmt.Errorf("open own network: %w", err)
			return
		}
		defer own.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			errs <- fmt.Errorf("enter network: %w", err)
			return
		}
		err = f()
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
			// The thread stays locked, so that it ends with this goroutine.
			errs <- errors.Join(err, fmt.Errorf("leave network: %w", back))
			return
		}
		runtime.UnlockOSThread()
		errs <- err
	}()
	return <-errs
}
