// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

var (
	oneSeed   = flag.Uint64("seed", 0, "run this seed alone")
	firstSeed = flag.Uint64("first", 1, "the first of the seeds to run")
	seedCount = flag.Uint64("seeds", 0, "how many seeds to run; 0: as many as fit the occasion")
	keepTrace = flag.Bool("history", false, "with -seed: print everything that happened")
	until     = flag.String("until", "", "with -worker: go on until this invariant was broken")
	worker    = flag.Bool("worker", false, "run the seeds in this process, and print what came of them as JSON")
)

// simulate runs one plan and gives what was broken.
func simulate(t *testing.T, p *plan, tracing bool) (c *checker, trace string) {
	t.Helper()
	t.Run(fmt.Sprintf("seed=%d", p.seed), func(t *testing.T) {
		signingKey()
		cryptotest.SetGlobalRandom(t, p.seed)
		synctest.Test(t, func(*testing.T) {
			w := newWorld(p, tracing)
			w.run()
			c = check(w)
			trace = w.trace.String()
		})
	})
	return c, trace
}

// outcomeOfSeeds is what a worker prints.
type outcomeOfSeeds struct {
	Runs       int
	Sessions   map[string]int // by profile and policy
	Lost       map[string]int
	Invariants map[string]int // how often each was broken
	Second     int            // presentations of a refresh token that were not the first
	Takeovers  int
	Reached    map[string]int // steps, by how often
	Hits       map[string]int // steps at which the one fault of a run happened
	Failures   []string
}

func newOutcome() *outcomeOfSeeds {
	return &outcomeOfSeeds{
		Sessions: map[string]int{}, Lost: map[string]int{}, Invariants: map[string]int{}, Reached: map[string]int{}, Hits: map[string]int{},
	}
}

func (o *outcomeOfSeeds) add(p *plan, c *checker, trace string) {
	name := string(p.profile) + " " + string(p.policy)
	o.Runs++
	o.Sessions[name] += len(c.w.sessions)
	o.Lost[name] += c.lost
	o.Second += c.doubles
	o.Takeovers += c.takeovers
	for _, wr := range c.h.writes {
		o.Reached[string(wr.kind)]++
	}
	if target := p.target; target != nil && c.w.reached >= target.nth {
		o.Hits[string(target.step)]++
	}
	for _, v := range c.found {
		o.Invariants[v.invariant]++
	}
	if len(c.found) > 0 {
		o.Failures = append(o.Failures, report(p, c, trace))
	}
}

func (o *outcomeOfSeeds) merge(other *outcomeOfSeeds) {
	o.Runs += other.Runs
	o.Second += other.Second
	o.Takeovers += other.Takeovers
	o.Failures = append(o.Failures, other.Failures...)
	for _, m := range [][2]map[string]int{
		{o.Sessions, other.Sessions}, {o.Lost, other.Lost}, {o.Invariants, other.Invariants}, {o.Reached, other.Reached}, {o.Hits, other.Hits},
	} {
		for k, n := range m[1] {
			m[0][k] += n
		}
	}
}

func (o *outcomeOfSeeds) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d runs, %d presentations that were not the first, %d takeovers\n", o.Runs, o.Second, o.Takeovers)
	for _, name := range slices.Sorted(maps.Keys(o.Sessions)) {
		fmt.Fprintf(&b, "  %-14s %5d sessions, %d lost\n", name, o.Sessions[name], o.Lost[name])
	}
	return b.String()
}

// report says what was broken, and how to see it again.
func report(p *plan, c *checker, trace string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", p)
	for i, v := range c.found {
		if i == 8 {
			fmt.Fprintf(&b, "  and %d more\n", len(c.found)-i)
			break
		}
		fmt.Fprintf(&b, "  %s at %s: %s\n", v.invariant, c.since(v.at), v.text)
	}
	fmt.Fprintf(&b, "  again: go test ./internal/simulation -run 'TestSimulation$' -seed %d -history -v\n%s", p.seed, trace)
	return b.String()
}

// alone makes the runs of this process as reproducible as they can be: one
// processor, so that goroutines of one moment run in the order in which they
// became able to.
func alone(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// I1 to I6 of HARDENING F, the table of G4, and DESIGN section 6, in runs that
// are all different and each the same every time. The flags say which.
func TestSimulation(t *testing.T) {
	switch {
	case *oneSeed != 0:
		alone(t)
		p := newPlan(*oneSeed)
		c, trace := simulate(t, p, *keepTrace)
		switch {
		case len(c.found) > 0:
			t.Error(report(p, c, trace))
		case *keepTrace:
			fmt.Printf("%v\n%s", p, trace)
		}
		return
	case *worker:
		alone(t)
		o := newOutcome()
		enough := func() bool {
			if *until != "" {
				return o.Invariants[*until] > 0
			}
			return len(o.Failures) >= 5
		}
		for seed := *firstSeed; seed < *firstSeed+*seedCount && !enough(); seed++ {
			p := newPlan(seed)
			c, trace := simulate(t, p, false)
			o.add(p, c, trace)
		}
		if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
			t.Fatal(err)
		}
		return
	}
	count := *seedCount
	if count == 0 {
		count = defaultSeeds(testing.Short())
	}
	all := runWorkers(t, *firstSeed, count)
	for _, f := range all.Failures {
		t.Error(f)
	}
	t.Log(all)
	if count >= 200 && len(all.Failures) == 0 {
		worthwhile(t, all)
	}
}

// worthwhile holds the runs themselves to account: where nothing dangerous
// happened, nothing was proved.
func worthwhile(t *testing.T, o *outcomeOfSeeds) {
	t.Helper()
	if o.Second == 0 || o.Takeovers == 0 {
		t.Error("no refresh token was ever presented a second time")
	}
	for _, s := range []step{stepIntentSent, stepCommitSent, stepBeat, stepMarked, stepTombSent, stepAttemptOver} {
		if o.Reached[string(s)] == 0 {
			t.Errorf("no run came to %q", s)
		}
	}
	if o.Lost["storm strict"] == 0 {
		t.Error("no session was lost where reuse revokes the family: too little goes wrong")
	}
}

// runWorkers spreads seeds over processes, one for each processor: what makes
// the randomness of a run its own is global.
func runWorkers(t *testing.T, first, count uint64) *outcomeOfSeeds {
	t.Helper()
	all := newOutcome()
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := uint64(runtime.NumCPU())
	const chunk = 50
	chunks := make(chan uint64)
	for range n {
		wg.Go(func() {
			for from := range chunks {
				o, err := runWorker(os.Args[0], from, min(chunk, first+count-from))
				mu.Lock()
				if err != nil {
					t.Errorf("seeds from %d: %v", from, err)
				} else {
					all.merge(o)
				}
				mu.Unlock()
			}
		})
	}
	for from := first; from < first+count; from += chunk {
		mu.Lock()
		failed := t.Failed() || len(all.Failures) >= 10
		mu.Unlock()
		if failed {
			break
		}
		chunks <- from
	}
	close(chunks)
	wg.Wait()
	return all
}

func runWorker(binary string, from, count uint64, further ...string) (*outcomeOfSeeds, error) {
	// A worker that turns in circles must not outlive what started it.
	args := []string{"-test.run=^TestSimulation$", "-test.timeout=2m", "-worker", fmt.Sprintf("-first=%d", from), fmt.Sprintf("-seeds=%d", count)}
	cmd := exec.Command(binary, append(args, further...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	o := newOutcome()
	if jsonErr := json.NewDecoder(bytes.NewReader(out.Bytes())).Decode(o); jsonErr != nil || err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out.String())
	}
	return o, nil
}

// defaultSeeds is how many seeds run where nobody says.
func defaultSeeds(short bool) uint64 {
	switch {
	case underRace: // it takes ten times as long
		return 100
	case short:
		return 300
	case os.Getenv("BFF_REQUIRE_COMPONENTS") == "1": // where time is no matter
		return 3000
	}
	return 1000
}
