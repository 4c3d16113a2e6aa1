// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix || solaris || aix || illumos

package filestore

import "os"

// unlock leaves it to the close of the handle.
func unlock(*os.File) error { return nil }
