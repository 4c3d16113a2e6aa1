// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"slices"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// F401, F402, RF-06: the authorization server is out for ten minutes. Nobody who
// has a valid token notices, nobody is logged out, 95 of 100 have new tokens half
// a minute after its return, and it is stormed neither meanwhile nor then.
func TestOutage(t *testing.T) {
	alone(t)
	for _, mode := range []serverMode{modeDown, modeSilent, modeUnavailable, modeTooMany} {
		t.Run(string(mode), func(t *testing.T) {
			signingKey()
			cryptotest.SetGlobalRandom(t, 1)
			synctest.Test(t, func(t *testing.T) {
				o := newOutage(mode)
				o.run()
				o.check(t)
			})
		})
	}
}

const (
	outageLength = 10 * time.Minute
	outageUsers  = 50
)

// outage is a run with one long fault.
type outage struct {
	w          *world
	mode       serverMode
	began, end time.Time
}

func newOutage(mode serverMode) *outage {
	p := newPlan(1, func(p *plan) {
		*p = plan{
			seed: 1, profile: profileCalm, policy: policyStrict, told: p.told, instances: 3, users: outageUsers, life: 5 * time.Minute,
			think: 3 * time.Second, store: abilityWatching, latency: 300 * time.Millisecond,
		}
	})
	return &outage{w: newWorld(p, false), mode: mode}
}

func (o *outage) run() {
	o.w.open()
	time.Sleep(6 * time.Minute) // so that the ages of tokens are mixed
	o.began = time.Now()
	o.w.server.setMode(o.mode)
	time.Sleep(outageLength)
	o.end = time.Now()
	o.w.server.setMode(modeWell)
	time.Sleep(3 * time.Minute)
	o.w.close()
}

func (o *outage) check(t *testing.T) {
	c := check(o.w)
	for _, v := range c.found {
		if v.invariant != economy && !(v.invariant == alive && v.at.Before(o.end.Add(time.Minute))) {
			t.Errorf("%s at %s: %s", v.invariant, c.since(v.at), v.text)
		}
	}
	served, notServed := 0, 0
	for _, r := range o.w.history.requests {
		switch {
		case r.outcome == outcomeEnded || r.outcome == outcomeNone:
			t.Errorf("%s was logged out at %s", r.sess.user, c.since(r.end))
		case r.began.Before(o.began) || r.end.After(o.end) || r.kind != requestToken:
		case r.outcome == outcomeOK:
			served++
		case r.outcome == outcomeUnavailable:
			notServed++
			for _, a := range r.sess.fam.access {
				if a.expiry.After(r.end) && a.expiry.Add(-o.w.plan.life).Before(r.began) {
					t.Errorf("%s was not served at %s, with a token that is good until %s: %v", r.sess.user, c.since(r.began), c.since(a.expiry), r.err)
				}
			}
		}
	}
	if served == 0 || notServed == 0 {
		t.Errorf("%d requests served during the outage, %d not: it was no outage", served, notServed)
	}
	fresh := 0
	for _, s := range o.w.sessions {
		if slices.ContainsFunc(o.w.history.writes, func(wr *write) bool {
			return wr.key == s.key && wr.kind == stepCommitSent && wr.at.After(o.end) && wr.at.Before(o.end.Add(30*time.Second))
		}) {
			fresh++
		}
	}
	if fresh*100 < len(o.w.sessions)*95 {
		t.Errorf("%d of %d sessions had new tokens half a minute after the return", fresh, len(o.w.sessions))
	}
	o.rates(t)
}

// rates looks at what the authorization server gets to bear: while it is out a
// probe of each process every two seconds (and what it takes to notice), then
// what each session needs, and that not all at once.
func (o *outage) rates(t *testing.T) {
	during := map[*process][]time.Time{}
	noticed := o.began.Add(10 * time.Second)
	if o.mode == modeSilent { // a call takes half a minute to fail, and one alone says nothing
		noticed = o.began.Add(2 * time.Minute)
	}
	var after []time.Time
	sort := func(a attempt) {
		switch {
		case a.at.Before(noticed):
		case a.at.Before(o.end):
			during[a.proc] = append(during[a.proc], a.at)
		case a.at.Before(o.end.Add(time.Minute)):
			after = append(after, a.at)
		}
	}
	for _, a := range o.w.refusals {
		sort(a)
	}
	for _, x := range o.w.history.calls {
		sort(attempt{x.called, x.proc})
	}
	for p, at := range during {
		if most := busiest(at, 10*time.Second); most > 6 {
			t.Errorf("%s tried %d times within ten seconds, 6 are allowed", p.name, most)
		}
	}
	if most := busiest(after, time.Second); most > outageUsers/2 {
		t.Errorf("%d calls within a second after the return, for %d sessions", most, outageUsers)
	}
	if len(after) > 2*outageUsers {
		t.Errorf("%d calls within a minute after the return, for %d sessions", len(after), outageUsers)
	}
}

// busiest is the largest number of calls within any stretch of that length.
func busiest(at []time.Time, stretch time.Duration) int {
	slices.SortFunc(at, time.Time.Compare)
	most, from := 0, 0
	for i := range at {
		for at[i].Sub(at[from]) >= stretch {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}
