# Copyright the caddy-bff authors
# SPDX-License-Identifier: Apache-2.0

# Says in a few lines why go test -v failed: each test that failed or was
# skipped with the lines that it wrote as errors; then panics, data races, what
# was not built, and packages that failed without a test. The first file names
# the places that only log, as git grep -n prints them; the second is the output.

BEGIN {
	most = 25
	wide = 200
	module = "github.com/caddy-bff/caddy-bff"
}

function cut(text) {
	gsub(/\t/, "  ", text)
	return length(text) > wide ? substr(text, 1, wide - 3) "..." : text
}

FILENAME == ARGV[1] { # path:line:text
	split($0, place, ":")
	logs["/" place[1] ":" place[2] ":"]
	next
}

# These say whose the next lines are. What came of a subtest is said late, and
# indented.
/^=== (RUN|CONT|NAME|PAUSE) / {
	test = $3
	at = ""
	follow = 0
	next
}
/^ *--- (PASS|FAIL|SKIP): / {
	if (/^-/) test = $3
	at = ""
	if ($2 != "PASS:") {
		ended[++n] = $3
		verdict[n] = $2
	}
	next
}

# What a test writes: file_test.go:1: text, and indented further what belongs to it.
/^ +[A-Za-z0-9_]+\.go:[0-9]+: / {
	at = $1
	margin = substr($0, 1, index($0, $1) - 1)
}
at != "" && index($0, margin) == 1 && !/^ *$/ {
	wrote[test, ++lines[test]] = cut($0)
	source[test, lines[test]] = at
}

/^panic: |^fatal error: |^WARNING: DATA RACE|^# [a-z][^ ]*( \[.*\])?$|\[(build|setup) failed\]$/ {
	follow = /DATA RACE/ ? 8 : 6
	explained = 1
}
follow > 0 && !/^ *$/ && !/^FAIL\t.*s$/ {
	follow--
	aside[++asides] = cut($0)
}

/^(ok|FAIL)\t/ { # the end of a package: its tests are known
	directory = substr($2, length(module) + 1)
	for (i = 1; i <= n; i++) {
		deepest = 1
		for (j = 1; j <= n; j++) if (index(ended[j], ended[i] "/") == 1) deepest = 0
		errors = 0
		for (j = 1; j <= lines[ended[i]]; j++) {
			if ((directory "/" source[ended[i], j]) in logs) continue
			line[tests + 1, ++errors] = wrote[ended[i], j]
		}
		if (!deepest && !errors) continue
		explained = 1
		size[++tests] = errors
		heading[tests] = cut(verdict[i] " " (directory == "" ? "." : substr(directory, 2)) " " ended[i])
	}
	if (/^FAIL/ && !explained) aside[++asides] = cut($0 ", and no test of it")
	n = explained = follow = 0
	at = ""
	split("", lines)
}

END {
	for (i = 1; i <= tests; i++) needed += 1 + size[i]
	room = most - (asides < most / 2 ? asides : int(most / 2))
	if (needed < room) room = needed
	if (asides > most - room) asides = most - room
	shown = tests * 2 > room ? int((room - 1) / 2) : tests
	room -= shown + (shown < tests)
	for (more = 1; more && room > 0;) { # a line for each in turn
		more = 0
		for (i = 1; i <= shown && room > 0; i++) {
			if (given[i] == size[i]) continue
			given[i]++
			room--
			more = 1
		}
	}
	for (i = 1; i <= shown; i++) {
		print heading[i]
		for (j = 1; j <= given[i]; j++) print line[i, j]
	}
	if (shown < tests) printf "and %d more\n", tests - shown
	for (i = 1; i <= asides; i++) print aside[i]
}
