// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// The demo as a newcomer sees it: sign in, a minute of calls over several
// expiries, each button, sign out. Screenshots are left in test-output.
func TestDemoInABrowser(t *testing.T) {
	path, browser := node(t, "playwright-core"), chromium(t)
	output := outputDirectory(t)
	if err := os.RemoveAll(output); err != nil {
		t.Fatal(err)
	}
	output = outputDirectory(t)

	// What `go run -C demo .` does, in two steps: an interrupt reaches the demo
	// itself, and not only the go command.
	binary := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "demo"), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build -C demo .: %v\n%s", err, out)
	}
	cmd := exec.Command(binary, "-port", strconv.Itoa(redistest.FreePort(t))) // free also while the gateway restarts
	cmd.Dir = filepath.Join("..", "demo")
	demo := start(t, "demo", cmd)
	field := func(name string) string {
		line := demo.line(t, name, 60*time.Second)
		value := regexp.MustCompile(`\S+\s*$`).FindString(line)
		if value == "" {
			t.Fatalf("the demo says %q", line)
		}
		return strings.TrimSpace(value)
	}
	walk, err := json.Marshal(map[string]string{
		"address":  field("Open"),
		"user":     field("User"),
		"password": field("Password"),
		"chromium": browser,
		"output":   output,
		"profile":  t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	walker := exec.CommandContext(ctx, path, "demo.mjs", string(walk))
	walker.Stderr = os.Stderr
	out, err := walker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := walker.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		last = lines.Text()
		t.Log(last)
	}
	if err := walker.Wait(); err != nil || last != "done" {
		t.Fatalf("%v, after %q; screenshots and the demo's log are in %s", err, last, output)
	}
	if shots, err := filepath.Glob(filepath.Join(output, "*.png")); err != nil || len(shots) < 8 {
		t.Fatalf("%d screenshots, %v", len(shots), err)
	}
}
