// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strconv"
	"testing"
)

// Environment variables that have a test go on for longer than CI has time for.
const (
	killRepetitions     = "BFF_KILL_REPETITIONS"     // of each cell of the kill-point matrix
	failoverRepetitions = "BFF_FAILOVER_REPETITIONS" // of the failover under load
)

// repetitions is how often the variable says, or otherwise.
func repetitions(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: not a number of repetitions", variable, text)
	}
	return n
}
