// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func readPage(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("spa", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// The Content-Security-Policy of Caddyfile.example allows scripts and styles of the site's own files only.
func TestPageHasNothingInline(t *testing.T) {
	t.Parallel()
	page := readPage(t, "index.html")
	for name, pattern := range map[string]string{
		"script without src": `<script(?:\s+type="module")?\s*>`,
		"style element":      `<style`,
		"style attribute":    `\sstyle\s*=`,
		"event attribute":    `\son\w+\s*=`,
		"javascript: URL":    `javascript:`,
		"foreign resource":   `(?:src|href)="(?:https?:)?//`,
	} {
		if found := regexp.MustCompile(`(?i)` + pattern).FindString(page); found != "" {
			t.Errorf("%s: %s", name, found)
		}
	}
	for _, name := range []string{"app.js", "chart.js", "journal.js", "record.js", "traffic.js", "style.css"} {
		if found := regexp.MustCompile(`https?://`).FindString(readPage(t, name)); found != "" {
			t.Errorf("%s refers to another site: %s", name, found)
		}
	}
}

func TestPageHasWhatTheScriptsUse(t *testing.T) {
	t.Parallel()
	page := readPage(t, "index.html")
	ids := map[string]int{}
	for _, match := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		ids[match[1]]++
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %s is there %d times", id, n)
		}
	}
	used := []string{"sign-in", "sign-out", "revoke", "outage", "burst", "restart", "status", "calls-ok", "calls-failed", "generations", "refreshes", "user"}
	for _, match := range regexp.MustCompile(`(?:\$|write|button)\('([a-z-]+)'`).FindAllStringSubmatch(readPage(t, "app.js"), -1) {
		used = append(used, match[1])
	}
	for _, match := range regexp.MustCompile(`aria-(?:labelledby|describedby)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		used = append(used, match[1])
	}
	for _, id := range used {
		if ids[id] == 0 {
			t.Errorf("no element has the id %s", id)
		}
	}
}

func TestPageFilesExist(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for _, match := range regexp.MustCompile(`(?:src|href)="/([^"]*)"`).FindAllStringSubmatch(readPage(t, "index.html"), -1) {
		files[match[1]] = "index.html"
	}
	for _, name := range []string{"app.js", "chart.js", "journal.js", "record.js", "traffic.js"} {
		for _, match := range regexp.MustCompile(`from '([^']+)'`).FindAllStringSubmatch(readPage(t, name), -1) {
			if match[1] != "/bff/client.js" {
				files[strings.TrimPrefix(match[1], "./")] = name
			}
		}
	}
	for name, user := range files {
		if _, err := os.Stat(filepath.Join("spa", name)); err != nil {
			t.Errorf("%s refers to %v", user, err)
		}
	}
}

// The page and the server must speak of the same events.
func TestPageKnowsEveryEvent(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join("journal", "journal.go"))
	if err != nil {
		t.Fatal(err)
	}
	script := readPage(t, "app.js")
	kinds := regexp.MustCompile(`Kind = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(kinds) == 0 {
		t.Fatal("no kinds found")
	}
	for _, kind := range kinds {
		if !strings.Contains(script, "  "+kind[1]+": (") {
			t.Errorf("the page has no sentence for %s", kind[1])
		}
	}
}
