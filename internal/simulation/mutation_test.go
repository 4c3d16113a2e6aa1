// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation takes one protection out of package session, by one change of its
// text, and says which invariant falls then.
type mutation struct {
	name      string
	file      string // of package session
	old, text string // old occurs exactly once
	falls     string
	first     uint64 // seeds, in which it shows soon
}

var mutations = []mutation{
	{
		name: "the owner does not move the lease", file: "attempt.go",
		old: "	a.Lease++\n", text: "",
		falls: onceOnly, first: 1,
	},
	{
		name: "nobody watches the lease", file: "attempt.go",
		old: "return time.Since(s.since) >= lease", text: "return true",
		falls: onceOnly, first: 1,
	},
	{
		name: "a commit is not fenced by the generation", file: "commit.go",
		old: "if !res.rec().succeeds(cur.rec) {", text: "if false {",
		falls: onceOnly, first: cellSeed(policyChild, stepAnswered, actPauseLong),
	},
	{
		name: "tokens are used before they are stored", file: "commit.go",
		old: "err = f.commit(ctx, o, res)", text: "go func() { time.Sleep(2 * time.Second); f.commit(context.WithoutCancel(ctx), o, res) }()",
		falls: onceOnly, first: 1,
	},
	{
		name: "new tokens are dropped when the store fails once", file: "commit.go",
		old: "if sleep(ctx, pause) != nil {", text: "if true {",
		falls: onceOnly, first: 1,
	},
	{
		name: "invalid_grant is believed without another look", file: "handle.go",
		old: "if gen != 0 && o.rec.Gen != gen {", text: "if false {",
		falls: notLost, first: cellSeed(policySpent, stepCalled, actPauseLease),
	},
	{
		name: "logout leaves no tombstone", file: "handle.go",
		old: "next.entomb(reason, s.m.lifetimeEnd(o.facts))", text: "_ = o",
		falls: finalOut, first: cellSeed(policyStrict, stepServed, actLogout),
	},
	{
		name: "what a refresh brought is not revoked after a logout", file: "commit.go",
		old: "f.m.revokeLater(fresh.refresh, answer.AccessToken)", text: "",
		falls: finalOut, first: cellSeed(policyStrict, stepServed, actLogout),
	},
	{
		name: "more than one flight a session", file: "refresh.go",
		old: "	if e.flight != nil {\n		if", text: "	if false {\n		if",
		falls: onceOnly, first: 1,
	},
	{
		name: "the authorization server is called without an intent", file: "attempt.go",
		old: "switch err := store.Replace(ctx, o.rec, next); {", text: "switch err := error(nil); {",
		falls: onceOnly, first: 1,
	},
	{
		name: "who was stopped does not look again before it calls", file: "attempt.go",
		old: "for limit := f.m.lease() / leaseBeats; since(asked) >= limit; limit = f.m.lease() {", text: "for false {",
		falls: onceOnly, first: cellSeed(policyStrict, stepIntentSent, actPauseLease),
	},
	{
		name: "that a refresh token may be spent is forgotten with the next answer", file: "flight.go",
		old: "f.doubtful = o.rec.Attempt.Takeover", text: "f.doubtful = false",
		falls: onceOnly, first: 1,
	},
	{
		name: "a tombstone keeps no tokens", file: "handle.go",
		old: "if s.m.cfg.KeepTokensAtEnd || reason == ReasonRefreshToken {", text: "if true {",
		falls: finalOut, first: cellSeed(policyStrict, stepTombDone, actLoseReply),
	},
}

// mutationSeeds is within how many seeds a mutation has to show.
const mutationSeeds = 150

// Each protection is needed: without it the named invariant falls, within a
// hundred seeds. The mutated source exists in an overlay of the go command alone.
func TestEveryProtectionIsNeeded(t *testing.T) {
	if testing.Short() {
		t.Skip("builds package session many times")
	}
	if underRace {
		return // what runs is another process, and not under the race detector
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			o, err := m.run(t)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d seeds, broken: %v", o.Runs, o.Invariants)
			if o.Invariants[m.falls] == 0 {
				t.Errorf("%s stands: the simulation does not see what is missing", m.falls)
			}
		})
	}
}

// run builds the mutated package and runs seeds until some fail.
func (m mutation) run(t *testing.T) (*outcomeOfSeeds, error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "session", m.file))
	if err != nil {
		return nil, err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return nil, fmt.Errorf("%s has %q %d times: the mutation has to follow the source", m.file, m.old, n)
	}
	dir := t.TempDir()
	mutated, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutated, []byte(strings.Replace(string(source), m.old, m.text, 1)), 0o600); err != nil {
		return nil, err
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "simulation.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building it: %w\n%s", err, out)
	}
	return runWorker(binary, m.first, mutationSeeds, "-until="+m.falls)
}
