// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// dice is a stream of decisions. Each belongs to one thing that decides (a
// browser, the calls of one process for one record), so that what happens
// elsewhere does not shift its decisions.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newDice(seed uint64, label string) *dice {
	h := fnv.New64a()
	h.Write([]byte(label)) //nolint:errcheck // never fails
	return &dice{r: rand.New(rand.NewPCG(seed, h.Sum64()))}
}

func (d *dice) chance(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64() < p
}

func (d *dice) pick(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// between is a duration to the nanosecond, so that hardly two things happen in
// the same moment: what does would be ordered by the scheduler, not by the seed.
func (d *dice) between(from, to time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return from + time.Duration(d.r.Int64N(int64(to-from)+1))
}

func oneOf[T any](d *dice, values ...T) T { return values[d.pick(len(values))] }

// policy is what the authorization server does to a refresh token that is used.
type policy string

const (
	policyNone   policy = "none"   // it stays; the answer carries none
	policySame   policy = "same"   // it stays; the answer repeats it
	policyGrace  policy = "grace"  // a new child each time, while the window after its first use lasts; later use revokes the family
	policyChild  policy = "child"  // the same child again, as long as that is unused; then it is refused
	policySpent  policy = "spent"  // it is spent, and refused without further consequences
	policyStrict policy = "strict" // it is spent, and using it again revokes the family
)

// profile is how much goes wrong.
type profile string

const (
	profileCalm   profile = "calm"   // nothing
	profileSingle profile = "single" // one fault, at one step of one refresh
	profileStorm  profile = "storm"  // everything, all the time
)

// plan is all that is decided before a run begins.
type plan struct {
	seed      uint64
	profile   profile
	policy    policy
	window    time.Duration    // of policyGrace
	told      session.Rotation // what the instances are told of it
	instances int
	users     int
	life      time.Duration // of access tokens
	think     time.Duration // of a browser, between requests
	length    time.Duration // of the time in which faults happen
	store     ability
	jwt       bool          // access tokens are JWTs
	idTokens  bool          // refreshes bring ID tokens
	skew      time.Duration // of the authorization server's clock
	storeSkew time.Duration // of the store's clock
	latency   time.Duration // the token endpoint answers within it
	// revokesGrant: to revoke a refresh token revokes all that came of the login;
	// else that one token alone.
	revokesGrant bool
	target       *target // of profileSingle

	// Chances in a storm: of a fault in a call to the store or to the
	// authorization server, of one at a step of a refresh, of a logout instead of
	// a request.
	storeFaults, serverFaults, stepFaults, logouts float64
	troubleEvery                                   time.Duration // mean time between the larger troubles
}

// ability is what the model store can do beyond the interface.
type ability string

const (
	abilityPlain    ability = "plain"
	abilityWatching ability = "watching"
	abilityCaching  ability = "caching"
)

// target is the one fault of a run: what happens at the nth time that a step is
// reached.
type target struct {
	step   step
	nth    int
	action action
}

func (p *plan) String() string {
	s := fmt.Sprintf("seed %d: %s, policy %s (window %v, told %s), %d instances, %d users, tokens live %v, requests every %v, %v of faults, store %s, latency %v, clocks off by %v and %v",
		p.seed, p.profile, p.policy, p.window, p.told, p.instances, p.users, p.life, p.think, p.length, p.store, p.latency, p.skew, p.storeSkew)
	if p.target != nil {
		s += fmt.Sprintf(", %s at %s no. %d", p.target.action, p.target.step, p.target.nth)
	}
	return s
}

// newPlan draws a plan. edits come last.
func newPlan(seed uint64, edits ...func(*plan)) *plan {
	d := newDice(seed, "plan")
	p := &plan{
		seed:      seed,
		policy:    oneOf(d, policyNone, policySame, policyGrace, policyGrace, policyChild, policyChild, policySpent, policyStrict, policyStrict, policyStrict),
		instances: 2 + d.pick(3),
		users:     1 + d.pick(5),
		life:      d.between(40*time.Second, 2*time.Minute).Round(time.Second),
		think:     d.between(time.Second, 6*time.Second),
		length:    d.between(3*time.Minute, 6*time.Minute),
		store:     oneOf(d, abilityPlain, abilityWatching, abilityCaching),
		jwt:       d.chance(0.15),
		idTokens:  d.chance(0.15),
		latency:   oneOf(d, 50*time.Millisecond, 300*time.Millisecond, 3*time.Second, 24*time.Second),
	}
	cell := cell(seed - matrixBase)
	switch n := d.pick(20); {
	case seed >= matrixBase && cell < matrixSize():
		p.profile, p.users, p.policy, p.target = profileSingle, 1, cell.policy(), cell.target()
	case n == 0:
		p.profile = profileCalm
	case n <= 9:
		p.profile = profileSingle
		p.target = &target{step: oneOf(d, steps...), nth: 1 + d.pick(4), action: oneOf(d, actions...)}
		p.users = 1 + d.pick(2)
	default:
		p.profile = profileStorm
		p.storeFaults = oneOf(d, 0, 0.01, 0.05)
		p.serverFaults = oneOf(d, 0, 0.05, 0.2)
		p.stepFaults = oneOf(d, 0, 0.01, 0.04)
		p.logouts = oneOf(d, 0, 0.01)
		p.troubleEvery = d.between(15*time.Second, 2*time.Minute)
	}
	if p.profile == profileSingle {
		p.length = p.life*2 + 90*time.Second
		if p.target.action == actPauseLong {
			p.length += 5 * time.Minute
		}
		switch p.target.step { // what it takes to get there
		case stepTombSent, stepTombDone, stepRevoked:
			p.logouts = 0.05
		case stepMarked, stepAttemptOver:
			p.serverFaults = 0.5
		}
	}
	p.rotation(d)
	if d.chance(0.3) {
		p.skew = d.between(-25*time.Second, 25*time.Second).Round(time.Second)
		p.storeSkew = d.between(-2*time.Minute, 2*time.Minute)
	}
	p.revokesGrant = d.chance(0.5)
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// rotation draws what the instances know of the policy: the truth, or nothing.
func (p *plan) rotation(d *dice) {
	p.told = session.RotationAuto
	told := d.chance(0.5)
	p.window = 10 * time.Minute
	switch {
	case !told:
	case p.policy == policyNone, p.policy == policySame:
		p.told = session.RotationNone
	case p.policy == policyGrace:
		p.told, p.window = session.RotationGrace, oneOf(d, time.Minute, 10*time.Minute)
	case p.policy == policyChild:
		p.told = session.RotationGrace
	default:
		p.told = session.RotationStrict
	}
}
