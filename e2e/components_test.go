// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// required names the environment variable that turns skips into failures.
const required = "BFF_REQUIRE_COMPONENTS"

// missing skips the test, or fails it where every component has to be there.
func missing(t *testing.T, component, remedy string) {
	t.Helper()
	if os.Getenv(required) == "1" {
		t.Fatalf("%s is missing, and %s=1 is set: %s", component, required, remedy)
	}
	t.Skipf("%s is missing: %s", component, remedy)
}

// node gives the path of Node, when it and the named packages are there.
func node(t *testing.T, packages ...string) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		missing(t, "Node", "install nodejs and npm, then run npm ci in the directory e2e")
	}
	for _, name := range packages {
		if _, err := os.Stat(filepath.Join("node_modules", name, "package.json")); err != nil {
			missing(t, "the npm package "+name, "run npm ci in the directory e2e")
		}
	}
	return path
}

// chromium gives the path of a browser.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "Chromium", "install the package chromium")
	return ""
}

// outputDirectory is where a test leaves what somebody may want to look at.
func outputDirectory(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "test-output", t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
