// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

// scrape reads our series off the admin endpoint, as "logins_total{result="ok"}"
// for instance: of one site those that are not about stores, without the site, and
// all of stores.
func scrape(t testing.TB, admin, site string) map[string]float64 {
	t.Helper()
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, ours := strings.CutPrefix(line, "caddy_bff_")
		if !ours {
			continue
		}
		i := strings.LastIndexByte(name, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(name[i:]), 64)
		if err != nil {
			t.Fatal(err)
		}
		name = name[:i]
		label := fmt.Sprintf("site=%q", site)
		if strings.Contains(name, "site=") {
			if !strings.Contains(name, label) {
				continue
			}
			name = strings.NewReplacer(","+label, "", label+",", "", "{"+label+"}", "").Replace(name)
		}
		all[name] = value
	}
	return all
}

// moved gives what differs.
func moved(before, after map[string]float64) map[string]float64 {
	d := make(map[string]float64)
	for name, v := range after {
		if v != before[name] {
			d[name] = v - before[name]
		}
	}
	return d
}

// aboutStores tells the series of stores and the times from the others: how often
// a record is read is nobody's promise.
var aboutStores = regexp.MustCompile(`^store_|_bucket|_sum`)

// CONTRACT section 6: each series moves by what happens, and nothing else does.
func TestMetrics(t *testing.T) {
	for _, name := range []string{"", "shop"} {
		t.Run("name "+name, func(t *testing.T) {
			admin := freeAddressTB(t)
			o := benchOptions{admin: admin}
			if name != "" {
				o.bff = "name " + name
			}
			b := newBench(t, o)
			site := name
			if site == "" {
				site = "app@" + strings.TrimPrefix(b.as.Issuer(), "http://")
			}
			c := b.browser()
			before := scrape(t, admin, site)
			if len(before) < 150 {
				t.Errorf("%d series before anything has happened", len(before))
			}
			stores := maps.Clone(before)
			step := func(what string, do func(), want map[string]float64) {
				t.Helper()
				do()
				after := scrape(t, admin, site)
				got := moved(before, after)
				maps.DeleteFunc(got, func(name string, _ float64) bool { return aboutStores.MatchString(name) })
				if !maps.Equal(got, want) {
					t.Errorf("%s moved %v, want %v", what, got, want)
				}
				before = after
			}
			status := func(want int, a *answer) {
				t.Helper()
				if a.StatusCode != want {
					t.Errorf("status %d, want %d: %s", a.StatusCode, want, a.body)
				}
			}
			step("nobody's call", func() { status(401, c.get("/api/x", script...)) }, map[string]float64{`requests_total{result="session_required"}`: 1})
			step("nobody's page", func() { status(302, c.get("/page", navigate...)) }, map[string]float64{`requests_total{result="login"}`: 1})
			step("a page from another site", func() { status(200, c.get("/page", arrive...)) }, map[string]float64{`requests_total{result="reload"}`: 1})
			step("a foreign call", func() {
				status(403, c.do("OPTIONS", "/api/x", "", "Origin", "https://evil.test", "Access-Control-Request-Method", "POST"))
			},
				map[string]float64{`requests_total{result="csrf_rejected"}`: 1})
			step("an open page", func() { status(200, c.get("/open", navigate...)) }, map[string]float64{})
			step("a login", func() { c.login() }, map[string]float64{`requests_total{result="endpoint"}`: 2, `logins_total{result="ok"}`: 1})
			step("a call", func() { status(200, c.get("/api/x", script...)) }, map[string]float64{`requests_total{result="session"}`: 1})
			step("a replay", func() { b.rs.Refuse(1); status(200, c.get("/api/x", script...)) }, map[string]float64{
				`requests_total{result="session"}`: 1, `replays_total{result="healed"}`: 1,
				`refreshes_total{result="ok",trigger="challenge"}`: 1, `refresh_duration_seconds_count`: 1,
			})
			step("a body that is too large", func() { b.rs.Refuse(1); status(401, c.do("POST", "/api/x", strings.Repeat("x", 100<<10), script...)) }, map[string]float64{
				`requests_total{result="session"}`: 1, `replays_total{result="body_gone"}`: 1, `limits_total{limit="replay_buffer"}`: 1,
				`refreshes_total{result="ok",trigger="challenge"}`: 1, `refresh_duration_seconds_count`: 1,
			})
			step("accepted again", func() { status(200, c.get("/api/x", script...)) }, map[string]float64{`requests_total{result="session"}`: 1})
			step("a refresh", func() { status(200, c.do("POST", "/bff/refresh", "", script...)) }, map[string]float64{
				`requests_total{result="endpoint"}`: 1, `refreshes_total{result="ok",trigger="request"}`: 1, `refresh_duration_seconds_count`: 1,
			})
			step("another one", func() { status(429, c.do("POST", "/bff/refresh", "", script...)) }, map[string]float64{
				`requests_total{result="rate_limited"}`: 1, `limits_total{limit="refresh_requests"}`: 1,
			})
			step("a logout", func() { status(200, c.do("POST", "/bff/logout", "", script...)) }, map[string]float64{
				`requests_total{result="endpoint"}`: 1, `sessions_ended_total{reason="logged_out"}`: 1,
			})
			c.login()
			before = scrape(t, admin, site)
			step("a refused refresh", func() {
				b.rs.Refuse(1)
				b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
				status(401, c.get("/api/x", script...))
			}, map[string]float64{
				`requests_total{result="session"}`: 1, `replays_total{result="refresh_failed"}`: 1,
				`refreshes_total{result="session_over",trigger="challenge"}`: 1, `refresh_duration_seconds_count`: 1, `sessions_ended_total{reason="refresh_token"}`: 1,
			})
			step("a refused login", func() {
				b.as.Configure(func(o *astest.Options) { o.AuthorizeError = "access_denied" })
				status(403, c.get(c.authorize(c.startLogin("/after")), arrive...))
			}, map[string]float64{`requests_total{result="endpoint"}`: 1, `requests_total{result="forbidden"}`: 1, `logins_total{result="refused"}`: 1})

			// Two logins: a claim of the state and a record each.
			after := moved(stores, before)
			for _, name := range []string{`store_operations_total{op="create",result="ok",store="memory"}`, `store_operation_duration_seconds_count{op="create",store="memory"}`} {
				if after[name] != 4 {
					t.Errorf("%s moved by %v", name, after[name])
				}
			}
			for _, name := range []string{`store_operations_total{op="load",result="local",store="memory"}`, `store_operations_total{op="replace",result="ok",store="memory"}`} {
				if after[name] < 4 {
					t.Errorf("%s moved by %v", name, after[name])
				}
			}
			// What is in memory is not measured. Each login asks for what is not there:
			// three marks of logouts.
			absent, measured := after[`store_operations_total{op="load",result="not_found",store="memory"}`], after[`store_operation_duration_seconds_count{op="load",store="memory"}`]
			if absent != 6 || measured != absent {
				t.Errorf("%v loads were measured, %v of what is not there", measured, absent)
			}
		})
	}
}

// F501, A608: what is counted is there after twenty reloads, of equal and of
// changed configurations, and goes on.
func TestMetricsGoOnOverReloads(t *testing.T) {
	admin := freeAddressTB(t)
	b := newBench(t, benchOptions{admin: admin, bff: "name reloaded"})
	c := b.browser().login()
	b.rs.Refuse(1)
	c.get("/api/x", script...)
	before := scrape(t, admin, "reloaded")
	plain := bytes.Clone(b.config)
	for i := range 20 {
		b.config = plain
		if i%3 == 1 { // another manager over the same store
			b.config = bytes.Replace(plain, []byte(`"client_id":"app"`), fmt.Appendf(nil, `"client_id":"app","http_timeout":%d`, 5e9+i), 1)
		}
		b.load()
		var after map[string]float64
		for range 100 { // the admin endpoint is another server, too
			if after = scrape(t, admin, "reloaded"); len(after) > 0 {
				break
			}
			waitABit()
		}
		if d := moved(before, after); len(d) != 0 || len(after) != len(before) {
			t.Fatalf("reload %d: %d series of %d, moved %v", i, len(after), len(before), d)
		}
	}
	c.get("/api/x", script...)
	d := moved(before, scrape(t, admin, "reloaded"))
	if d[`requests_total{result="session"}`] != 1 {
		t.Errorf("after the reloads it moved %v", d)
	}
}

// H210: whatever is asked, there are no more series, and no label says anything
// but what it may.
func TestLabelsAreOfClosedSets(t *testing.T) {
	admin := freeAddressTB(t)
	b := newBench(t, benchOptions{admin: admin, bff: "name closed"})
	before := scrape(t, admin, "closed")
	for i := range 20 {
		b.as.Configure(func(o *astest.Options) { o.User = "user-" + strconv.Itoa(i) })
		c := b.browser().login()
		b.rs.Refuse(i % 3)
		c.get("/api/"+strconv.Itoa(i), script...)
		c.do("POST", "/bff/logout", "", script...)
		c.get("/page/"+strconv.Itoa(i)+"?code=x", navigate...)
		c.get("/bff/callback?code=secret&state="+strconv.Itoa(i), navigate...)
		c.get("/bff/no-such-"+strconv.Itoa(i), navigate...)
	}
	after := scrape(t, admin, "closed")
	if len(after) != len(before) {
		t.Errorf("%d series, %d before", len(after), len(before))
	}
	sets := map[string][]string{
		"result": append(append(words(session.LoginOutcomes()), words(session.RefreshResults())...), words(upstream.ReplayResults())...),
		"reason": words(session.EndReasons()), "trigger": words(session.RefreshTriggers()),
		"limit": append(words(session.Limits()), "replay_buffer", "replay_memory"),
		"store": {"memory", "file", "redis"}, "le": nil,
	}
	sets["result"] = slices.Concat(sets["result"], requestResults, slices.Collect(maps.Keys(problems)))
	for _, op := range session.StoreOps() {
		sets["op"] = append(sets["op"], op.String())
	}
	for _, r := range session.StoreResults() {
		sets["result"] = append(sets["result"], r.String())
	}
	label := regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
	for name := range after {
		for _, m := range label.FindAllStringSubmatch(name, -1) {
			if set, ok := sets[m[1]]; !ok || m[1] != "le" && !slices.Contains(set, m[2]) {
				t.Errorf("%s: %s is not of the set", name, m[0])
			}
		}
	}
}

// Whoever reads a label finds out what it means.
func TestLabelsAreDocumented(t *testing.T) {
	for file, all := range map[string][]string{
		"docs/limits.md":  append(words(session.Limits()), "replay_buffer", "replay_memory"),
		"docs/refresh.md": append(append(words(session.RefreshResults()), words(session.RefreshTriggers())...), "spool", "deliver", "heal"),
		"README.md":       slices.Concat(words(session.LoginOutcomes()), words(session.EndReasons()), words(upstream.ReplayResults()), requestResults, []string{"local"}),
	} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range all {
			if !bytes.Contains(text, []byte("`"+word+"`")) {
				t.Errorf("%s says nothing of %s", file, word)
			}
		}
	}
}

func words[T ~string](all []T) (w []string) {
	for _, v := range all {
		w = append(w, string(v))
	}
	return w
}

// The same collectors go into any number of registries, and twice into one; what
// is not ours does not pass for it.
func TestRegister(t *testing.T) {
	c := newCollectors()
	c.ofSite("a").LoginEnded(session.LoginSucceeded)
	for range 2 {
		r := prometheus.NewRegistry()
		for range 2 {
			if err := c.register(r); err != nil {
				t.Fatal(err)
			}
		}
		families, err := r.Gather()
		if err != nil || len(families) != 7 { // no store yet
			t.Errorf("%d families, %v", len(families), err)
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(newCollectors().logins)
	if err := c.register(r); err == nil {
		t.Error("somebody else's passes for ours")
	}
}

// A name for every application, of valid UTF-8 as the format wants it.
func TestMetricsName(t *testing.T) {
	for want, h := range map[string]*Handler{
		"shop":                      {Name: "shop", ClientID: "c", Issuer: "https://login.test"},
		"c@login.test":              {ClientID: "c", Issuer: "https://login.test"},
		"c@login.test:8443/realm/x": {ClientID: "c", Issuer: "https://login.test:8443/realm/x"},
		"c?@login.test":             {ClientID: "c\xff", Issuer: "https://login.test"},
		"c@user.test":               {ClientID: "c", Issuer: "https://a:secret@user.test"},
	} {
		if got := h.metricsName(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// BenchmarkStoreCalled is what a load from memory pays.
func BenchmarkStoreCalled(b *testing.B) {
	m := newCollectors().ofStore("memory")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.StoreCalled(session.StoreLoad, session.StoreLocal, -1)
		}
	})
}

// BenchmarkRequested is what every request pays.
func BenchmarkRequested(b *testing.B) {
	m := newCollectors().ofSite("a")
	for b.Loop() {
		m.requested(resultSession)
	}
}
