// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestLoginPage(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	response, _ := p.get(p.Issuer() + "/authorize?" + authorizationRequest("v").Encode())
	address := p.Issuer() + response.Header.Get("Location")
	response, page := p.get(address)
	if csp := response.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "form-action 'self' http://localhost:9") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	for _, want := range []string{`value="alice"`, `value="wonderland"`, `<label for="username">`, `<label for="password">`} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %s", want)
		}
	}
	id := response.Request.URL.Query().Get("request")
	response, page = p.post("/login", url.Values{"request": {id}, "username": {"<b>alice"}, "password": {"wrong"}}, false)
	if response.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(page, "is wrong") || strings.Contains(page, "<b>alice") {
		t.Errorf("wrong password: %d %s", response.StatusCode, page)
	}
	response, page = p.post("/login", url.Values{"request": {"unknown"}, "username": {"alice"}, "password": {"wonderland"}}, false)
	if response.StatusCode != http.StatusBadRequest || !strings.Contains(page, "start again") {
		t.Errorf("unknown request: %d", response.StatusCode)
	}
	request, err := http.NewRequest(http.MethodPost, p.Issuer()+"/login", strings.NewReader(url.Values{"request": {id}, "username": {"alice"}, "password": {"wonderland"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", "http://evil.test")
	if response, _ := p.do(request); response.StatusCode != http.StatusForbidden {
		t.Errorf("form of another site: %d", response.StatusCode)
	}
}
