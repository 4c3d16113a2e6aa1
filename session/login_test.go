// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// wantKind checks what became of a login that should not succeed.
func wantKind(t *testing.T, err error, want session.LoginErrorKind) *session.LoginError {
	t.Helper()
	got, ok := errors.AsType[*session.LoginError](err)
	if !ok || got.Kind != want {
		t.Fatalf("got %v, want kind %d", err, want)
	}
	return got
}

func exchanges(b *bench) (n int) {
	for _, r := range b.as.Requests(astest.Token) {
		if r.GrantType == "authorization_code" {
			n++
		}
	}
	return n
}

func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Claims: map[string]any{"name": "Alice"}})
		br := browser{}
		params := b.begin(br)
		if n := br.logins(); n != 1 {
			t.Fatalf("%d login cookies", n)
		}
		res, err := b.finish(br, params)
		if err != nil {
			t.Fatal(err)
		}
		if res.ReturnTo != "/home" || br.logins() != 0 || len(br) != 1 {
			t.Errorf("return to %q, cookies %v", res.ReturnTo, slices.Collect(maps.Keys(br)))
		}
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if s.Subject() != "alice" || s.Claims()["name"] != "Alice" || s.ID() != res.Session.ID() || !s.CreatedAt().Equal(time.Now().Truncate(time.Millisecond)) {
			t.Errorf("session %s %v", s.Subject(), s.Claims())
		}
		if got := s.LifetimeEnd().Sub(time.Now()).Round(time.Second); got != 12*time.Hour {
			t.Errorf("lifetime %v", got)
		}
		if got := s.IdleEnd().Sub(time.Now()).Round(time.Second); got != 30*time.Minute {
			t.Errorf("idle timeout %v", got)
		}
	})
}

// AR-01 to AR-05.
func TestAuthorizationRequest(t *testing.T) {
	b := newBench(t, astest.Options{})
	seen := make(map[string]bool)
	for range 100 {
		start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/", Params: url.Values{"prompt": {"login"}}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(start.AuthorizationURL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		for name, want := range map[string]string{
			"response_type": "code", "client_id": "app", "redirect_uri": callback, "code_challenge_method": "S256", "prompt": "login",
		} {
			if len(q[name]) != 1 || q.Get(name) != want {
				t.Fatalf("%s = %q", name, q[name])
			}
		}
		for _, name := range []string{"state", "nonce", "code_challenge"} {
			if len(q.Get(name)) < 22 || seen[q.Get(name)] {
				t.Fatalf("%s = %q", name, q[name])
			}
			seen[q.Get(name)] = true
		}
		if c := start.Cookies[0]; strings.Contains(c.Value, q.Get("state")) || c.SameSite != http.SameSiteLaxMode || !c.HttpOnly || !c.Secure || c.MaxAge != 600 || c.Path != "/" || c.Domain != "" {
			t.Fatalf("login cookie %v", c)
		}
	}
	start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/", ResponseMode: "form_post"})
	if err != nil || start.Cookies[0].SameSite != http.SameSiteNoneMode {
		t.Errorf("form_post: %v, %v", start, err)
	}
}

// C301, C302, BFF-15, CB-01: whatever another browser began, or nobody did.
func TestLoginCSRF(t *testing.T) {
	b := newBench(t, astest.Options{})
	attacker, victim := browser{}, browser{}
	s := b.login(victim)
	params := b.begin(attacker)
	before := exchanges(b)
	for name, p := range map[string]url.Values{
		"foreign state": params, "no state": {"code": params["code"]}, "empty state": {"state": {""}, "code": params["code"]},
		"made-up state": {"state": {"AAAAAAAAAAAAAAAAAAAAAA"}, "code": params["code"]}, "nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.finish(victim, p)
			wantKind(t, err, session.LoginStateInvalid)
			// A browser that has a login of its own under way is no better off.
			own := maps.Clone(victim)
			b.begin(own)
			_, err = b.finish(own, p)
			wantKind(t, err, session.LoginStateInvalid)
		})
	}
	if n := exchanges(b); n != before {
		t.Errorf("%d codes were sent", n-before)
	}
	if again, err := b.open(victim); err != nil || again.ID() != s.ID() {
		t.Errorf("the victim's session: %v", err)
	}
}

// CB-06, AR-03, C302: single use, also when delivered at the same time, and a
// repeated callback of a browser that is signed in does no harm.
func TestCallbackReplay(t *testing.T) {
	b := newBench(t, astest.Options{Latency: map[string]time.Duration{astest.Token: 50 * time.Millisecond}})
	br := browser{}
	params := b.begin(br)
	var won, stale atomic.Int32
	var winner atomic.Pointer[session.LoginResult]
	before := maps.Clone(br)
	together(20, func(int) {
		res, err := b.finish(maps.Clone(before), params)
		if err == nil {
			won.Add(1)
			winner.Store(res)
		} else if e, ok := errors.AsType[*session.LoginError](err); ok && e.Kind == session.LoginStale && e.ReturnTo == "/home" {
			stale.Add(1)
		}
	})
	if won.Load() != 1 || stale.Load() != 19 || exchanges(b) != 1 {
		t.Fatalf("%d won, %d stale, %d exchanges", won.Load(), stale.Load(), exchanges(b))
	}
	br.take(winner.Load().Cookies)
	_, err := b.finish(br, params)
	if e := wantKind(t, err, session.LoginStale); e.Live == nil || e.ReturnTo != "/home" {
		t.Errorf("repeated: %+v", e)
	}
	_, err = b.finish(before, params)
	if e := wantKind(t, err, session.LoginStale); e.Live != nil {
		t.Error("no session is live in this browser")
	}
	if exchanges(b) != 1 {
		t.Errorf("%d exchanges", exchanges(b))
	}
}

// C302: a login waits ten minutes for its callback.
func TestStaleLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		params := b.begin(br, func(r *session.LoginRequest) { r.Restarted = true })
		time.Sleep(10*time.Minute + time.Second)
		_, err := b.finish(br, params)
		if e := wantKind(t, err, session.LoginStale); e.ReturnTo != "/home" || !e.Restarted || br.logins() != 0 {
			t.Errorf("got %+v", e)
		}
		if exchanges(b) != 0 {
			t.Error("the code was sent")
		}
	})
}

// AR-02: the cookies of two logins of one browser cannot be swapped.
func TestLoginCookiesCannotBeSwapped(t *testing.T) {
	b := newBench(t, astest.Options{})
	br := browser{}
	b.begin(br)
	params := b.begin(br)
	names := slices.Sorted(maps.Keys(br))
	br[names[0]].Value, br[names[1]].Value = br[names[1]].Value, br[names[0]].Value
	_, err := b.finish(br, params)
	wantKind(t, err, session.LoginStateInvalid)
}

// CK-15, A409, H201: many tabs; at most five logins, the newest; any order.
func TestManyTabs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		var all []url.Values
		for range 20 {
			all = append(all, b.begin(br))
			time.Sleep(time.Second)
		}
		if n := br.logins(); n != 5 {
			t.Fatalf("%d login cookies", n)
		}
		b.counted("limit", map[string]int{"pending_logins": 15})
		for name, c := range br {
			if len(c.Value) > 1024 {
				t.Errorf("%s has %d bytes", name, len(c.Value))
			}
		}
		_, err := b.finish(br, all[0])
		wantKind(t, err, session.LoginStateInvalid)
		for _, i := range []int{17, 15, 19, 16, 18} {
			if _, err := b.finish(br, all[i]); err != nil {
				t.Errorf("tab %d: %v", i, err)
			}
		}
		if br.logins() != 0 {
			t.Error("login cookies are left")
		}
	})
}

// H201, F505: whoever only begins logins costs no write, and no memory that stays.
func TestBegunLoginsAreKeptNowhere(t *testing.T) {
	b := newBench(t, astest.Options{})
	b.begin(browser{})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	const logins = 20_000
	for range logins {
		_, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("x", session.MaxReturnTo-1)})
		if err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > 10*logins {
		t.Errorf("%d bytes more for %d logins", grown, logins)
	}
	if got := b.tally.of("store"); len(got) != 0 {
		t.Errorf("the store was asked: %v", got)
	}
	if _, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("x", session.MaxReturnTo)}); err == nil {
		t.Error("a return URL beyond the bound")
	}
}

// CK-10, A110, CB-13, C303: a new identifier at every login, and the session
// that the login saw is over, its refresh token revoked.
func TestSessionFixation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		first := b.login(br)
		kept := maps.Clone(br)
		b.as.Configure(func(o *astest.Options) { o.User = "bob" })
		params := b.begin(br, func(r *session.LoginRequest) { r.Previous = first })
		res, err := b.finish(br, params)
		if err != nil {
			t.Fatal(err)
		}
		if res.Session.ID() == first.ID() || res.Session.Subject() != "bob" {
			t.Error("the session went on")
		}
		b.ended(kept, session.ReasonLoggedOut)
		time.Sleep(time.Second)
		if len(b.revoked("refresh_token")) != 1 {
			t.Error("the first session's refresh token lives")
		}
		b.mustToken(br)
	})
}

// CB-07, C312: the authorization server says no.
func TestLoginRefused(t *testing.T) {
	b := newBench(t, astest.Options{AuthorizeError: "access_denied"})
	br := browser{}
	_, err := b.finish(br, b.begin(br))
	if e := wantKind(t, err, session.LoginRefused); e.Code != "access_denied" || e.ReturnTo != "/home" || br.logins() != 0 {
		t.Errorf("got %+v", e)
	}
	// An error with a state that is not ours tells nothing.
	_, err = b.finish(br, url.Values{"error": {"access_denied"}, "state": {"x"}})
	wantKind(t, err, session.LoginStateInvalid)
}

// CB-02, CB-03, C306: mix-up.
func TestMixUp(t *testing.T) {
	for name, o := range map[string]astest.Options{"other iss": {WrongIss: "https://evil.test"}, "no iss": {OmitIss: true}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, o)
			br := browser{}
			_, err := b.finish(br, b.begin(br))
			wantKind(t, err, session.LoginResponseInvalid)
			if exchanges(b) != 0 {
				t.Error("the code was sent")
			}
		})
	}
}

// ID-01 to ID-09, TK-08, C304, C307, CB-12: nothing is kept of a login whose
// ID token is wrong.
func TestBadIDTokenMakesNoSession(t *testing.T) {
	unknown := astest.Options{TokenResponse: func(_ string, body map[string]any) {
		body["id_token"] = astest.NewKey("ES256", "unknown").Sign(map[string]any{"alg": "ES256", "kid": "unknown"}, map[string]any{"nonce": "x"})
	}}
	for name, o := range map[string]astest.Options{
		"foreign key": unknown,
		"nonce":       {IDTokenClaims: func(_ string, c map[string]any) { c["nonce"] = "other" }},
		"no nonce":    {IDTokenClaims: func(_ string, c map[string]any) { delete(c, "nonce") }},
		"aud":         {IDTokenClaims: func(_ string, c map[string]any) { c["aud"] = "other" }},
		"iss":         {IDTokenClaims: func(_ string, c map[string]any) { c["iss"] = "https://evil.test" }},
		"no sub":      {IDTokenClaims: func(_ string, c map[string]any) { delete(c, "sub") }},
		"alg none":    {IDTokenHeader: func(h map[string]any) { h["alg"] = "none" }},
		"absent":      {TokenResponse: func(_ string, body map[string]any) { delete(body, "id_token") }},
		"no token":    {TokenResponse: func(_ string, body map[string]any) { delete(body, "access_token") }},
		"mac":         {TokenResponse: func(_ string, body map[string]any) { body["token_type"] = "mac" }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, o)
			br := browser{}
			_, err := b.finish(br, b.begin(br))
			want := session.LoginFailed
			if strings.Contains(name, "nonce") {
				want = session.LoginResponseInvalid // C307: somebody else's code
			}
			wantKind(t, err, want)
			if _, err := b.open(br); !errors.Is(err, session.ErrNoSession) || len(br) != 0 {
				t.Errorf("left: %v, %v", br, err)
			}
		})
	}
}

// F402: an authorization server that says when to come back is heard.
func TestBusyServerAtLogin(t *testing.T) {
	for name, tc := range map[string]struct {
		header string
		want   time.Duration
	}{"seconds": {"7", 7 * time.Second}, "a day": {"86400", time.Minute}, "nothing": {"", time.Second}, "nonsense": {"soon", time.Second}} {
		for _, endpoint := range []string{astest.Token, astest.JWKS} {
			t.Run(name+" "+endpoint, func(t *testing.T) {
				b := newBench(t, astest.Options{})
				br := browser{}
				params := b.begin(br)
				b.as.Script(endpoint, astest.Answer{Status: 429, Header: http.Header{"Retry-After": {tc.header}}})
				_, err := b.finish(br, params)
				wantKind(t, err, session.LoginUnavailable)
				u, ok := errors.AsType[*session.UnavailableError](err)
				if !ok || u.RetryAfter != tc.want {
					t.Errorf("retry after %v, want %v: %v", u.RetryAfter, tc.want, err)
				}
			})
		}
	}
}

// TK-10: an exchange whose answer is lost is not repeated.
func TestExchangeIsNotRepeated(t *testing.T) {
	b := newBench(t, astest.Options{})
	br := browser{}
	params := b.begin(br)
	b.as.Script(astest.Token, astest.Answer{CutReply: true})
	_, err := b.finish(br, params)
	wantKind(t, err, session.LoginUnavailable)
	if exchanges(b) != 1 {
		t.Errorf("%d exchanges", exchanges(b))
	}
}

// A store that is out, or full, costs no code and says so.
func TestLoginWithoutStore(t *testing.T) {
	b := newBench(t, astest.Options{})
	br := browser{}
	params := b.begin(br)
	b.store.setFail(session.ErrStoreUnavailable)
	_, err := b.finish(br, params)
	wantKind(t, err, session.LoginUnavailable)
	if exchanges(b) != 0 {
		t.Error("the code was sent")
	}
	b.store.setFail(nil)
	if _, err := b.finish(br, params); err != nil {
		t.Errorf("after its return: %v", err)
	}
}

// TK-11: the browser hangs up while the code is exchanged.
func TestBrowserHangsUpDuringCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Latency: map[string]time.Duration{astest.Token: time.Second}})
		br := browser{}
		params := b.begin(br)
		ctx, cancel := contextWithTimeout(t, 10*time.Millisecond)
		defer cancel()
		res, err := b.m.FinishLogin(ctx, b.site, session.Callback{RedirectURI: callback, Params: params, Request: br.request()})
		if err != nil || res.Session == nil {
			t.Errorf("the session is not whole: %v", err)
		}
	})
}

func TestReturnURLIsBounded(t *testing.T) {
	b := newBench(t, astest.Options{})
	_, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("a", session.MaxReturnTo)})
	if err == nil {
		t.Error("an endless return URL was taken")
	}
	start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("a", session.MaxReturnTo-1)})
	if err != nil || len(start.Cookies[0].String()) > 4096 {
		t.Errorf("the longest one: %v", err)
	}
}
