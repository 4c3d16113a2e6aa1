// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

const dpopSite = `
	handle /api/* {
		bff_proxy {$API} {
			dpop
		}
	}
	handle_path /strip/* {
		rewrite * /v2{uri}
		bff_proxy {$API} {
			dpop
			header_up Host orders.internal:8443
		}
	}
	handle /secure/* {
		bff_proxy https://%s {
			dpop
			transport http {
				tls_insecure_skip_verify
			}
		}
	}
	handle /tries/* {
		bff_proxy %s {$API} {
			dpop
			lb_policy first
			lb_try_duration 2s
			lb_try_interval 10ms
			fail_duration 5s
		}
	}
	handle /plain/* {
		bff_proxy {$API}
	}
	handle /narrow/* {
		bff_proxy {$API} {
			dpop
			exchange {
				audience stock
			}
		}
	}
	handle /by-hand/* {
		bff_protect
		reverse_proxy {$API} {
			transport bff
		}
	}
	handle {
		respond "open"
	}
`

// newDPoPBench gives a gateway, and a resource server beside the usual one that is
// asked by https.
func newDPoPBench(t *testing.T, o benchOptions) (*bench, *astest.ResourceServer) {
	t.Helper()
	o.as.DPoP = true
	o.server = astest.New(o.as).Start(t)
	secure := o.server.ResourceServer()
	s := httptest.NewTLSServer(secure)
	t.Cleanup(s.Close)
	if o.site == "" {
		o.site = fmt.Sprintf(dpopSite, s.Listener.Addr(), freeAddressTB(t))
	}
	o.bff += "\ndpop on"
	return newBench(t, o), secure
}

// DP-02, DP-03, DP-06, DP-07, DP-10: whatever becomes of the request on its way to
// the upstream, its proof is about what the upstream sees (which the resource server
// checks), by the key of the login, and each is another one.
func TestDPoP(t *testing.T) {
	b, secure := newDPoPBench(t, benchOptions{as: astest.Options{RequireDPoP: true, RequirePAR: true}, bff: "access_token {\nvalidate jwt\naudience https://api.test\n}\nuserinfo on"})
	c := b.browser().login()
	for _, path := range []string{
		"/api/x", "/api/a%2Fb%20c/%C3%A4;p=1?q=/y%23z", "/strip/x?y=1", "/secure/x", "/tries/x", "/plain/x", "/narrow/x", "/by-hand/x", "/api//double",
	} {
		a := c.get(path, with(script, "Authorization", "DPoP of-the-browser", "DPoP", "of-the-browser")...)
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	jkt := b.as.Requests(astest.Token)[0].Proof().JKT
	seen := map[any]bool{}
	requests := append(b.rs.Requests(), secure.Requests()...)
	for _, r := range requests {
		p := r.Proof()
		if r.Scheme != "DPoP" || p == nil || p.JKT != jkt || len(r.Header["Dpop"]) != 1 {
			t.Errorf("%s: scheme %s, proof %v", r.URL, r.Scheme, p)
			continue
		}
		seen[p.Claims["jti"]] = true
		if strings.Contains(b.log(), r.Token) || strings.Contains(b.log(), r.Header.Get("DPoP")) {
			t.Errorf("%s: its token or proof is in the log", r.URL)
		}
	}
	if len(requests) != 9 || len(seen) != len(requests) || len(secure.Requests()) != 1 {
		t.Errorf("%d different proofs of %d requests", len(seen), len(requests))
	}
	if htu := requests[2].Proof().Claims["htu"]; htu != "http://orders.internal:8443/v2/x" {
		t.Errorf("htu %v", htu)
	}
	if b.as.Count(astest.UserInfo) != 1 {
		t.Error("no UserInfo")
	}
}

// DP-05, DP-12: upstreams that demand nonces get them, with bodies too, without a
// refresh, and the browser hears nothing of it. After a reload they are still known.
func TestDPoPNonceOfAnUpstream(t *testing.T) {
	b, secure := newDPoPBench(t, benchOptions{as: astest.Options{RequireDPoP: true}, bff: "refresh {\non any_401\n}"})
	c := b.browser().login()
	tokens := b.as.Count(astest.Token)
	nonces := []string{b.rs.DemandNonce(true), secure.DemandNonce(false)}
	ask := func(body string, wanted int) {
		t.Helper()
		before := len(b.rs.Requests())
		method := http.MethodGet
		if body != "" {
			method = http.MethodPost
		}
		a := c.do(method, "/api/x", body, script...)
		if a.StatusCode != http.StatusOK || a.Header["Dpop-Nonce"] != nil || a.Header["Www-Authenticate"] != nil || !strings.Contains(a.body, fmt.Sprintf(`"body_bytes":%d`, len(body))) {
			t.Errorf("%d %v %s", a.StatusCode, a.Header, a.body)
		}
		if n := len(b.rs.Requests()) - before; n != wanted {
			t.Errorf("%d requests, %d expected", n, wanted)
		}
	}
	upload := strings.Repeat("b", 5000)
	ask(upload, 2)
	ask(upload, 1) // the answer has brought the next nonce
	if a := c.get("/secure/x", script...); a.StatusCode != http.StatusOK || len(secure.Requests()) != 2 {
		t.Errorf("%d after %d requests", a.StatusCode, len(secure.Requests()))
	}
	b.load()
	ask("", 1) // a connection that a reload closes would lose an upload
	b.rs.DemandNonce(false)
	ask("", 2)
	if n := b.as.Count(astest.Token); n != tokens || b.as.Refreshes() != 0 {
		t.Errorf("%d token requests", n-tokens)
	}
	for _, r := range append(b.rs.Requests(), secure.Requests()...) {
		if nonce, own := r.Proof().Claims["nonce"], strings.HasPrefix(r.URL, "/secure"); nonce == nonces[1] && !own || nonce == nonces[0] && own {
			t.Errorf("%s was sent the nonce of another server", r.URL)
		}
	}
}

// DP-11: an upstream whose clock is off by half a minute is asked twice, once.
func TestDPoPClockOfAnUpstream(t *testing.T) {
	for _, ahead := range []time.Duration{-30 * time.Second, 30 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) {
			b, _ := newDPoPBench(t, benchOptions{})
			c := b.browser().login()
			b.rs.ClockAhead(ahead)
			for i := range 2 {
				if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK || len(b.rs.Requests()) != 2+i {
					t.Errorf("%d after %d requests", a.StatusCode, len(b.rs.Requests()))
				}
			}
		})
	}
}

// DP-07: a refused token is healed, and the fresh one is bound to the same key.
func TestDPoPHeals(t *testing.T) {
	b, _ := newDPoPBench(t, benchOptions{as: astest.Options{RequireDPoP: true}})
	c := b.browser().login()
	b.rs.DemandNonce(true)
	b.as.RevokeAccessTokens("alice")
	if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK || b.as.Refreshes() != 1 {
		t.Errorf("%d after %d refreshes", a.StatusCode, b.as.Refreshes())
	}
}

// DP-10: a session from before `dpop on` stays one of bearer tokens. Where dpop
// demands more it gets no further, and is told how to: by another login.
func TestDPoPIsSwitchedOn(t *testing.T) {
	as := astest.New(astest.Options{DPoP: true}).Start(t)
	site := func(option string) string {
		return "handle /api/* {\nbff_proxy {$API} {\n" + option + "\nactivity on\n}\n}\nhandle /plain/* {\nbff_proxy {$API}\n}"
	}
	off := benchOptions{server: as, site: site("")}
	b := newBench(t, off)
	c := b.browser().login()
	on := benchOptions{site: site("dpop"), bff: "dpop on"}
	b.config = b.caddyfile(on)
	b.load()
	a := c.get("/api/x", script...)
	a.wantError(t, http.StatusBadGateway, "token_unavailable")
	if got := fmt.Sprint(a.json(t)["login_url"]); !strings.Contains(got, "force=true") {
		t.Errorf("login_url %s", got)
	}
	if len(b.rs.Requests()) != 0 {
		t.Error("the upstream was asked")
	}
	if a := c.get("/plain/x", script...); a.StatusCode != http.StatusOK || b.rs.Requests()[0].Scheme != "Bearer" {
		t.Errorf("%d", a.StatusCode)
	}
	request := c.get("/bff/login?force=true&return_to=/after", navigate...)
	if a := c.get(c.authorize(mustParse(t, request.location())), arrive...); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	// And back: what is bound never goes without a proof.
	off.server = nil
	b.config = b.caddyfile(off)
	b.load()
	for _, path := range []string{"/api/x", "/plain/x"} {
		if a := c.get(path, script...); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	for _, r := range b.rs.Requests()[1:] {
		if r.Scheme != "DPoP" {
			t.Errorf("a bound token was sent by %s", r.Scheme)
		}
	}
}

// DP-08: an authorization server that binds nothing lets nobody in.
func TestDPoPWithoutDPoP(t *testing.T) {
	for name, change := range map[string]func(*astest.Options){
		"Bearer": func(o *astest.Options) {
			o.TokenResponse = func(_ string, body map[string]any) { body["token_type"] = "Bearer" }
		},
		"no algorithm": func(o *astest.Options) {
			o.MetadataDoc = func(doc map[string]any) { doc["dpop_signing_alg_values_supported"] = []string{"RS256"} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newDPoPBench(t, benchOptions{})
			b.as.Configure(change)
			c := b.browser()
			a := c.get("/bff/login?return_to=/after", navigate...)
			if a.StatusCode == http.StatusFound {
				a = c.get(c.authorize(mustParse(t, a.location())), arrive...)
			}
			if a.StatusCode != http.StatusBadGateway || c.jar["bff"] != "" || !strings.Contains(b.log(), "DPoP") {
				t.Errorf("%d %s", a.StatusCode, b.log())
			}
		})
	}
}

// accept_bearer: a token of a client that is bound to that client's key cannot be
// relayed, with a proof or without.
func TestDPoPTokensOfClients(t *testing.T) {
	b, _ := newDPoPBench(t, benchOptions{
		bff:  "access_token {\nvalidate jwt\naudience https://api.test\n}",
		site: "handle /api/* {\nbff_proxy {$API} {\naccept_bearer\n}\n}",
	})
	c := b.browser().login()
	if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK {
		t.Fatal(a.StatusCode)
	}
	taken := b.rs.Requests()[0]
	for _, scheme := range []string{"Bearer", "DPoP"} {
		a := b.browser().get("/api/x", "Authorization", scheme+" "+taken.Token, "DPoP", taken.Header.Get("DPoP"))
		if a.StatusCode != http.StatusUnauthorized || len(b.rs.Requests()) != 1 {
			t.Errorf("%s: %d", scheme, a.StatusCode)
		}
	}
}

// dpop is nothing without `dpop on`.
func TestDPoPNeedsDPoPOn(t *testing.T) {
	const site = "bff_proxy localhost:9 {\ndpop\n}\n"
	for option, good := range map[string]bool{"": false, "dpop off": false, "dpop on": true} {
		err := validate(t, string(adaptTB(t, siteBlock("app", block("", "one", option)+site))))
		if (err == nil) != good || !good && !strings.Contains(err.Error(), "site app.example.com: "+errDPoPOff.Error()) {
			t.Errorf("%q: %v", option, err)
		}
	}
}
