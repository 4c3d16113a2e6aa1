// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix && !solaris && !aix && !illumos

package filestore

import (
	"os"
	"syscall"
)

// unlock releases bbolt's lock of a file that bbolt cannot close any more. Its
// mapping, which stays, would keep the lock beyond the close of the handle.
func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
