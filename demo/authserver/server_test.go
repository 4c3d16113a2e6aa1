// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

func TestTokensOfASignIn(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	if first.ExpiresIn != 15 || first.RefreshToken == "" {
		t.Fatalf("expires_in %d", first.ExpiresIn)
	}
	access, id := claims(t, first.AccessToken), claims(t, first.IDToken)
	if aud, ok := access["aud"].([]any); !ok || len(aud) != 1 || aud[0] != audience {
		t.Errorf("audience of the access token: %v", access["aud"])
	}
	if aud, ok := id["aud"].([]any); !ok || len(aud) != 1 || aud[0] != gateway.ID {
		t.Errorf("audience of the ID token: %v", id["aud"])
	}
	for _, c := range []map[string]any{access, id} {
		if c["iss"] != p.Issuer() || c["sub"] != "alice" || c["sid"] == "" || c["sid"] != access["sid"] {
			t.Errorf("claims %v", c)
		}
	}
	if id["name"] != "Alice Liddell" || id["email"] != "alice@example.com" || id["nonce"] != "the nonce" {
		t.Errorf("claims of the ID token: %v", id)
	}

	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK || second.RefreshToken == first.RefreshToken || second.AccessToken == first.AccessToken || second.ExpiresIn != 15 {
		t.Fatalf("refresh: %d, expires_in %d", second.Status, second.ExpiresIn)
	}
	refreshed := claims(t, second.IDToken)
	if refreshed["sid"] != id["sid"] || refreshed["auth_time"] != id["auth_time"] {
		t.Errorf("ID token of a refresh: %v, at sign-in: %v", refreshed, id)
	}
	if aud := claims(t, second.AccessToken)["aud"].([]any); len(aud) != 1 || aud[0] != audience {
		t.Errorf("audience after a refresh: %v", aud)
	}
	if !p.Live(access["jti"].(string)) {
		t.Error("a refresh must leave the previous access token alone")
	}
}

func TestAttackReusedRefreshTokenEndsTheSession(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	second := p.refresh(first.RefreshToken)
	if third := p.refresh(first.RefreshToken); third.Status != http.StatusBadRequest || third.Error != "invalid_grant" {
		t.Fatalf("a spent refresh token: %+v", third)
	}
	if third := p.refresh(second.RefreshToken); third.Status != http.StatusBadRequest || third.Error != "invalid_grant" {
		t.Fatalf("the rest of its family: %+v", third)
	}
	for _, token := range []string{first.AccessToken, second.AccessToken} {
		if p.Live(claims(t, token)["jti"].(string)) {
			t.Error("an access token of the family is alive")
		}
	}
	if got := p.kinds(); !slices.Equal(got, []journal.Kind{journal.SignedIn, journal.Refreshed, journal.Reused}) {
		t.Errorf("journal: %v", got)
	}
}

func TestParallelRefreshesOverHTTPHaveOneWinner(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	var won, refused atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			switch answer := p.refresh(first.RefreshToken); {
			case answer.Status == http.StatusOK:
				won.Add(1)
			case answer.Error == "invalid_grant":
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || refused.Load() != 19 {
		t.Fatalf("%d won, %d were refused", won.Load(), refused.Load())
	}
}

func TestAttackCodeIsGoodForOneExchange(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	code, verifier := p.authorize()
	if answer := p.exchange(code, "another verifier, long enough to be one of its own"); answer.Status == http.StatusOK {
		t.Fatal("a wrong code_verifier was accepted")
	}
	first := p.exchange(code, verifier)
	if first.Status != http.StatusOK {
		t.Fatalf("the right one was not: %+v", first)
	}
	if again := p.exchange(code, verifier); again.Error != "invalid_grant" {
		t.Fatalf("second exchange: %+v", again)
	}
	if p.Live(claims(t, first.AccessToken)["jti"].(string)) || p.refresh(first.RefreshToken).Status == http.StatusOK {
		t.Error("what the first exchange gave must be revoked")
	}
}

func TestAuthorizationRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	for name, test := range map[string]struct {
		change func(url.Values)
		want   string // error sent to the client; empty: the browser stays here
	}{
		"no PKCE":              {func(v url.Values) { v.Del("code_challenge") }, "invalid_request"},
		"plain PKCE":           {func(v url.Values) { v.Set("code_challenge_method", "plain") }, "invalid_request"},
		"prompt=none":          {func(v url.Values) { v.Set("prompt", "none") }, "login_required"},
		"foreign redirect_uri": {func(v url.Values) { v.Set("redirect_uri", "http://evil.test/") }, ""},
		"unknown client":       {func(v url.Values) { v.Set("client_id", "evil") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := authorizationRequest("verifier")
			test.change(v)
			response, _ := p.get(p.Issuer() + "/authorize?" + v.Encode())
			location, err := response.Location()
			if test.want == "" {
				if err == nil || response.StatusCode != http.StatusBadRequest {
					t.Fatalf("%d, Location %v", response.StatusCode, location)
				}
				return
			}
			if err != nil || location.Query().Get("error") != test.want || !strings.HasPrefix(location.String(), gateway.RedirectURI) {
				t.Fatalf("Location %v", location)
			}
		})
	}
}

func TestClientMustAuthenticate(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}, "client_id": {gateway.ID}, "client_secret": {"wrong"}}
	if response, body := p.post("/oauth/token", form, false); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "invalid_client") {
		t.Fatalf("wrong secret: %d %s", response.StatusCode, body)
	}
	form.Set("client_id", "nobody")
	if response, body := p.post("/oauth/token", form, false); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "invalid_client") {
		t.Fatalf("unknown client: %d %s", response.StatusCode, body)
	}
	if answer := p.refresh(first.RefreshToken); answer.Status != http.StatusOK {
		t.Fatalf("the refresh token must not have been spent by that: %+v", answer)
	}
}

func TestRevocationEndpoint(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	jti := claims(t, first.AccessToken)["jti"].(string)
	if response, body := p.post("/revoke", url.Values{"token": {first.AccessToken}, "token_type_hint": {"access_token"}}, true); response.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	if p.Live(jti) {
		t.Error("the access token is alive")
	}
	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK {
		t.Fatalf("the refresh token must be alive: %+v", second)
	}
	if response, body := p.post("/revoke", url.Values{"token": {second.RefreshToken}, "token_type_hint": {"refresh_token"}}, true); response.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	if p.refresh(second.RefreshToken).Error != "invalid_grant" || p.Live(claims(t, second.AccessToken)["jti"].(string)) {
		t.Error("revoking the refresh token must end everything")
	}
}

func TestEndSessionEndsTheSessionOfTheIDToken(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	mine, other := p.signIn(), p.signIn()
	query := url.Values{"id_token_hint": {mine.IDToken}, "post_logout_redirect_uri": {gateway.PostLogoutRedirectURI}, "state": {"s"}}
	response, body := p.get(p.Issuer() + "/end_session?" + query.Encode())
	if response.Header.Get("Location") != gateway.PostLogoutRedirectURI+"?state=s" {
		t.Fatalf("%d %s %s", response.StatusCode, response.Header.Get("Location"), body)
	}
	if p.refresh(mine.RefreshToken).Error != "invalid_grant" {
		t.Error("the session is alive")
	}
	if p.refresh(other.RefreshToken).Status != http.StatusOK {
		t.Error("another session of the user was ended too")
	}
	query = url.Values{"client_id": {gateway.ID}, "logout_hint": {"alice"}, "post_logout_redirect_uri": {gateway.PostLogoutRedirectURI}}
	if response, body := p.get(p.Issuer() + "/end_session?" + query.Encode()); response.Header.Get("Location") != gateway.PostLogoutRedirectURI {
		t.Fatalf("without an ID token: %d %s", response.StatusCode, body)
	}
	query.Set("post_logout_redirect_uri", "http://evil.test/")
	if response, _ := p.get(p.Issuer() + "/end_session?" + query.Encode()); response.StatusCode != http.StatusBadRequest {
		t.Fatalf("open redirect: %d %s", response.StatusCode, response.Header.Get("Location"))
	}
}

func TestRevokeAccessTokensLeavesTheSession(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	c := claims(t, first.AccessToken)
	p.RevokeAccessTokens(c["sid"].(string))
	if p.Live(c["jti"].(string)) {
		t.Error("the access token is alive")
	}
	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK || !p.Live(claims(t, second.AccessToken)["jti"].(string)) {
		t.Errorf("the session must go on: %+v", second)
	}
}
