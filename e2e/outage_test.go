// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// HARDENING F401, F402: the authorization server is out for a minute, once with
// connections refused, once with 503 for answer, and 300 sessions are asked for
// all the while. A third of their access tokens run out in the outage, a third
// become due in it and live on for ten seconds after it, a third need nothing.
// Nobody with a valid token notices, nobody is logged out, nearly all are
// refreshed within half a minute of its return, and it is not stormed.
func TestAuthorizationServerOutage(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, o := range []outage{
		{
			name: "connections refused", instances: 1,
			begin: func(as *astest.Server) { as.SetDown(true) },
			end:   func(as *astest.Server) { as.SetDown(false) },
		},
		{
			name: "answers 503", instances: 2,
			begin: func(as *astest.Server) {
				for _, endpoint := range []string{astest.Token, astest.Metadata, astest.JWKS} {
					as.Script(endpoint, astest.Answer{Status: http.StatusServiceUnavailable, Times: -1})
				}
			},
			end: func(as *astest.Server) {
				for _, endpoint := range []string{astest.Token, astest.Metadata, astest.JWKS} {
					as.ClearScript(endpoint)
				}
			},
		},
	} {
		wg.Go(func() { t.Run(o.name, func(t *testing.T) { o.test(t) }) })
	}
}

type outage struct {
	name       string
	instances  int
	begin, end func(*astest.Server)

	visitors  []visitor
	expiry    [][2]time.Time // of a visitor's first access token: not before, not after
	needy     int            // visitors whose token runs out or becomes due before anything can be had
	from, to  time.Time
	untouched int // visitors whose token needs nothing
}

const (
	outageLasts    = time.Minute
	outageSessions = 300
	// callsAtOnce is how many refreshes an instance has under way at a time.
	callsAtOnce = 32
	// slowToken is what the token endpoint takes after its return: at the pace of
	// the load more would call at a time than may.
	slowToken = 500 * time.Millisecond
)

func (o *outage) test(t *testing.T) {
	f := newFleet(t, fleetOptions{instances: o.instances, as: astest.Options{AccessTokenClaims: precise}})
	o.logins(f)
	var origins []string
	for _, in := range f.instances {
		origins = append(origins, in.origin())
	}
	l := startLoad(t, o.visitors, outageSessions/2, origins...)
	time.Sleep(time.Until(o.from))
	f.as.Configure(func(as *astest.Options) {
		as.AccessTokenLifetime, as.Latency = time.Hour, map[string]time.Duration{astest.Token: slowToken}
	})
	if n := len(f.as.RefreshRequests()); n != 0 {
		t.Fatalf("%d refreshes before the outage", n)
	}
	o.from = time.Now()
	o.begin(f.as)
	time.Sleep(time.Until(o.to))
	o.end(f.as)
	o.to = time.Now()
	time.Sleep(30 * time.Second)
	answers := l.end()

	o.checkAnswers(t, answers)
	o.checkCalls(f)
	for i, v := range o.visitors {
		for _, in := range f.instances {
			if status, err := in.call(t.Context(), v); status != http.StatusOK || err != nil {
				t.Errorf("session %d is lost at instance %d: status %d, %v", i, in.number, status, err)
			}
		}
	}
}

// logins signs everybody in, a while before the outage begins.
func (o *outage) logins(f *fleet) {
	o.from = time.Now().Add(15 * time.Second).Truncate(time.Second)
	o.to = o.from.Add(outageLasts)
	for i := range outageSessions {
		end := o.from.Add(5*time.Second + time.Duration(i)*(outageLasts-15*time.Second)/outageSessions)
		switch i % 3 {
		case 1:
			end = o.to.Add(10 * time.Second)
		case 2:
			end = o.to.Add(time.Hour)
			o.untouched++
		}
		life := time.Until(end).Round(time.Second)
		f.as.Configure(func(as *astest.Options) { as.User, as.AccessTokenLifetime = "user "+strconv.Itoa(i), life })
		began := time.Now()
		o.visitors = append(o.visitors, f.instances[i%len(f.instances)].login())
		o.expiry = append(o.expiry, [2]time.Time{began.Add(life), time.Now().Add(life)})
	}
	o.needy = outageSessions - o.untouched
	if left := time.Until(o.from); left < 2*time.Second {
		f.t.Fatalf("the logins took until %s before the outage: this machine is too busy to tell", left)
	}
}

// checkAnswers checks what browsers saw.
func (o *outage) checkAnswers(t *testing.T, answers []outcome) {
	t.Helper()
	var valid, expired, after []outcome
	served := make(map[int]bool) // visitors with a token again
	back := make(map[int]time.Duration)
	for _, a := range answers {
		switch {
		case a.status == http.StatusOK || a.status == http.StatusServiceUnavailable && a.retryAfter != "":
		default:
			t.Errorf("%+v", a)
		}
		switch {
		case a.sent.Add(a.took).Before(o.expiry[a.visitor][0]):
			valid = append(valid, a)
		case a.sent.After(o.to):
			after = append(after, a)
			if a.status == http.StatusOK && !served[a.visitor] {
				served[a.visitor] = true
				back[a.visitor] = a.sent.Add(a.took).Sub(o.to)
			}
		case a.sent.After(o.expiry[a.visitor][1]):
			expired = append(expired, a)
			if a.status == http.StatusOK {
				t.Errorf("visitor %d was served %s after the access token had run out", a.visitor, a.sent.Sub(o.expiry[a.visitor][1]))
			}
		}
	}
	v := count(valid)
	t.Logf("with a valid token: %s", v)
	t.Logf("with one that had run out, in the outage: %s", count(expired))
	t.Logf("after the return: %s", count(after))
	if v.failed != 0 {
		t.Errorf("%d with a valid token noticed, the first: %+v", v.failed, *v.first)
	}
	if len(expired) < 1000 || len(valid) < 5000 {
		t.Errorf("%d and %d requests: the test looks at nothing", len(expired), len(valid))
	}
	for i := range o.visitors {
		if i%3 == 0 && !served[i] {
			t.Errorf("visitor %d is not served half a minute after the return", i)
		}
	}
}

// checkCalls checks what the authorization server saw.
func (o *outage) checkCalls(f *fleet) {
	t := f.t
	t.Helper()
	before := make(map[int]int) // calls in each second of the outage
	tries := 0
	for _, at := range o.failures(f) {
		before[int(at.Sub(o.from)/time.Second)]++
		tries++
	}
	after := make(map[int]int) // and after it
	tokens := make(map[string]bool)
	var returned []time.Duration
	var edges []edge
	for _, r := range f.as.RefreshRequests() {
		if r.Time.Before(o.to) {
			continue
		}
		after[int(r.Time.Sub(o.to)/time.Second)]++
		if tokens[r.Token] || r.Status != http.StatusOK {
			t.Errorf("after the return: status %d, refresh token repeated %v", r.Status, tokens[r.Token])
		}
		tokens[r.Token] = true
		returned = append(returned, r.Done.Sub(o.to))
		edges = append(edges, edge{r.Time, 1}, edge{r.Done, -1})
	}
	slices.Sort(returned)
	if len(returned) != o.needy {
		t.Fatalf("%d refreshes after the return, for %d sessions", len(returned), o.needy)
	}
	most := atOnce(edges)
	nearly := returned[len(returned)*95/100]
	t.Logf("in the outage: %d calls, %s", tries, perSecond(before))
	t.Logf("after the return: %d calls, %d at a time at most, %s; 95 %% are refreshed after %s, all after %s",
		len(returned), most, perSecond(after), nearly.Round(time.Millisecond), returned[len(returned)-1].Round(time.Millisecond))
	if nearly > 30*time.Second {
		t.Errorf("95 %% are refreshed after %s", nearly)
	}
	if most > callsAtOnce*o.instances || most < callsAtOnce/2 {
		t.Errorf("%d calls at a time", most)
	}
	// Until an instance knows, what it had begun goes on; then it looks every two
	// seconds.
	if limit := o.instances * (callsAtOnce + int(outageLasts/(2*time.Second))); tries > limit || tries < 10*o.instances {
		t.Errorf("%d calls in the outage", tries)
	}
	if f.as.ReuseDetections() != 0 || f.as.Count(astest.Revoke) != 0 {
		t.Errorf("%d reuses, %d revocations", f.as.ReuseDetections(), f.as.Count(astest.Revoke))
	}
}

// failures is when calls failed, by the instances' logs: what is refused does not
// come to the authorization server. What came to it has to agree.
func (o *outage) failures(f *fleet) (all []time.Time) {
	f.t.Helper()
	for _, in := range f.instances {
		log, err := os.Open(filepath.Join(outputDirectory(f.t), "gateway"+strconv.Itoa(in.number)+".log"))
		if err != nil {
			f.t.Fatal(err)
		}
		defer log.Close()
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var line struct {
				TS  float64
				Msg string
			}
			if !strings.Contains(lines.Text(), "refresh failed") {
				continue
			}
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				f.t.Fatal(err)
			}
			if at := time.UnixMicro(int64(line.TS * 1e6)); line.Msg == "refresh failed" && at.After(o.from) {
				all = append(all, at)
			}
		}
	}
	came := 0
	for _, r := range f.as.RefreshRequests() {
		if r.Time.Before(o.to) {
			came++
		}
	}
	if came != 0 && came != len(all) {
		f.t.Errorf("%d calls came to the authorization server, %d by the logs", came, len(all))
	}
	return all
}

// edge is where a call begins or ends.
type edge struct {
	at   time.Time
	step int
}

// atOnce is how many calls there were at a time, at most.
func atOnce(edges []edge) (most int) {
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	now := 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

// perSecond prints calls in each second.
func perSecond(calls map[int]int) string {
	most, last := 0, 0
	for second, n := range calls {
		most, last = max(most, n), max(last, second)
	}
	series := make([]string, last+1)
	for second := range series {
		series[second] = strconv.Itoa(calls[second])
	}
	return fmt.Sprintf("%d in a second at most (%s)", most, strings.Join(series, " "))
}
