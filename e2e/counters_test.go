// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// refreshResults is how many refreshes of the instance have ended how, as it says
// on Caddy's /metrics.
func (in *instance) refreshResults() (map[string]int, error) {
	res, err := in.f.client.Get("http://" + in.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: status %d", res.StatusCode)
	}
	results := make(map[string]int)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		labels, ok := strings.CutPrefix(lines.Text(), "caddy_bff_refreshes_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		_, result, _ := strings.Cut(labels, `result="`)
		result, _, _ = strings.Cut(result, `"`)
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		results[result] += int(n)
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("no refreshes are counted: %w", lines.Err())
	}
	return results, lines.Err()
}

// counts checks that the instance has counted so many takeovers since, by what
// became of them.
func (in *instance) counts(since map[string]int, recovered, lost int) {
	in.f.t.Helper()
	redistest.Eventually(in.f.t, "the counters agree with what was counted outside", func() error {
		now, err := in.refreshResults()
		if err != nil {
			return err
		}
		got := [4]int{}
		for i, result := range []string{"recovered_takeover", "lost_takeover", "recovered_unanswered", "lost_unanswered"} {
			got[i] = now[result] - since[result]
		}
		if want := [4]int{recovered, lost}; got != want {
			return fmt.Errorf("recovered and lost takeovers, and unanswered: %v, want %v", got, want)
		}
		return nil
	})
}
