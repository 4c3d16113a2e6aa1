// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/conformance.md anew")

// documentFile is where the document is.
const documentFile = "../../docs/conformance.md"

//go:embed introduction.md
var introduction string

// sight is what was seen of a module in one variant.
type sight struct {
	variant string
	seen    string
	missing string // why the module was not run
}

// document is docs/conformance.md in the making.
type document struct {
	plans  []*planResult
	wanted int // modules that there are
}

type planResult struct {
	*plan
	rows           []string
	passed, absent int
}

func newDocument() *document {
	d := new(document)
	for _, p := range plans() {
		d.wanted += len(p.modules)
	}
	return d
}

func (d *document) plan(p *plan) { d.plans = append(d.plans, &planResult{plan: p}) }

// row adds a module to the plan that was named last.
func (d *document) row(m *module, all []sight) {
	p := d.plans[len(d.plans)-1]
	var seen []string
	result := "does not apply"
	for _, one := range all {
		text := one.seen
		if one.missing == "" && text == "" {
			return // left out by -run
		}
		if one.missing == "" {
			result = "pass"
		} else {
			text = one.missing
		}
		if len(seen) > 0 && strings.HasSuffix(seen[len(seen)-1], text) {
			continue // as in the variant before
		}
		if one.variant != "" && len(seen) > 0 {
			text = "*" + one.variant + ":* " + text
		}
		seen = append(seen, text)
	}
	if result == "pass" {
		p.passed++
	} else {
		p.absent++
	}
	p.rows = append(p.rows, fmt.Sprintf("| %s | %s | %s | %s |", m.name, m.sent, strings.ReplaceAll(strings.Join(seen, "<br>"), "|", `\|`), result))
}

func (d *document) text() string {
	var b strings.Builder
	b.WriteString(introduction)
	b.WriteString("\n| plan | modules | pass | do not apply |\n|---|---|---|---|\n")
	for _, p := range d.plans {
		fmt.Fprintf(&b, "| [%s](#%s) | %d | %d | %d |\n", p.title, anchor(p.title), len(p.rows), p.passed, p.absent)
	}
	for _, p := range d.plans {
		fmt.Fprintf(&b, "\n## %s\n\n", p.title)
		if p.name != "" {
			fmt.Fprintf(&b, "`%s`. ", p.name)
		}
		b.WriteString(p.needs)
		if len(p.variants) > 1 {
			b.WriteString("\n\nEvery module is run in these variants, and what is seen is shown for each where it differs:\n")
			for _, v := range p.variants {
				fmt.Fprintf(&b, "\n* %s", v.says)
			}
		}
		fmt.Fprintf(&b, "\n\n| module | what is sent | what is seen | result |\n|---|---|---|---|\n%s\n", strings.Join(p.rows, "\n"))
	}
	return b.String()
}

// anchor is the name of a heading in a link.
func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z':
			return r
		}
		return -1
	}, strings.ToLower(title))
}

// compare holds the document in the repository to what was seen. A run of some
// modules has nothing to compare.
func (d *document) compare(t *testing.T) {
	t.Helper()
	rows := 0
	for _, p := range d.plans {
		rows += len(p.rows)
	}
	if rows != d.wanted {
		t.Logf("%d modules of %d ran: docs/conformance.md is not compared", rows, d.wanted)
		return
	}
	text := d.text()
	if *update {
		if err := os.WriteFile(documentFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(old) == text {
		return
	}
	was, is := strings.Split(string(old), "\n"), strings.Split(text, "\n")
	for i := range max(len(was), len(is)) {
		if at(was, i) != at(is, i) {
			t.Errorf("docs/conformance.md, line %d, says\n%s\nand the run says\n%s", i+1, at(was, i), at(is, i))
			break
		}
	}
	t.Error("if that is as it should be: go test ./internal/conformance -update")
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}
