// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// authorize signs Options.User in and answers with a code (RFC 6749 section
// 4.1). It demands PKCE with S256.
func (s *Server) authorize(rec *Request) *response {
	q, res := s.authorizationRequest(rec)
	if res != nil {
		return res
	}
	redirectURI := q.Get("redirect_uri")
	params := url.Values{}
	if state := q.Get("state"); state != "" {
		params.Set("state", state)
	}
	if s.opts.WrongIss != "" {
		params.Set("iss", s.opts.WrongIss)
	} else if !s.opts.NoIssParameter && !s.opts.OmitIss {
		params.Set("iss", s.issuer())
	}
	switch {
	case s.opts.AuthorizeError != "":
		params.Set("error", s.opts.AuthorizeError)
	case s.refuses(q) != "":
		params.Set("error", s.refuses(q))
	default:
		scope := q.Get("scope")
		if s.opts.Scope != "" {
			scope = s.opts.Scope
		}
		token := "code-" + random()
		g := &grant{subject: s.opts.User, scope: scope, nonce: q.Get("nonce"), resource: q["resource"]}
		g.sid, g.acr, g.authTime = s.authenticateUser(q)
		s.grants.all = append(s.grants.all, g)
		s.grants.codes[token] = &code{
			grant:       g,
			redirectURI: redirectURI,
			challenge:   q.Get("code_challenge"),
			jkt:         s.boundTo(q),
			expiry:      time.Now().Add(s.opts.CodeLifetime),
		}
		params.Set("code", token)
	}
	mode := q.Get("response_mode")
	if s.signsResponse(mode) {
		params = url.Values{"response": {s.responseJWT(params)}}
	}
	if s.opts.AuthorizationResponse != nil {
		s.opts.AuthorizationResponse(params)
	}
	if strings.HasPrefix(mode, "form_post") {
		return formPost(redirectURI, params)
	}
	return redirect(query(redirectURI, params))
}

// signsResponse says whether a response of that mode is signed.
func (s *Server) signsResponse(mode string) bool {
	return s.opts.JARM && (mode == "jwt" || mode == "query.jwt" || mode == "form_post.jwt")
}

// responseJWT signs an authorization response (JARM section 2.1).
func (s *Server) responseJWT(params url.Values) string {
	k := s.keys[0]
	header := map[string]any{"alg": k.Algorithm, "kid": k.ID}
	claims := map[string]any{"iss": s.issuer(), "aud": s.opts.ClientID, "exp": time.Now().Add(time.Minute).Unix()}
	for name := range params {
		claims[name] = params.Get(name)
	}
	if s.opts.ResponseJWT != nil {
		s.opts.ResponseJWT(header, claims)
	}
	return k.Sign(header, claims)
}

// checkRedirectURI refuses a request that must not be answered by redirect.
func (s *Server) checkRedirectURI(q url.Values) *response {
	u, err := url.Parse(q.Get("redirect_uri"))
	if q.Get("client_id") != s.opts.ClientID || err != nil || !u.IsAbs() || u.Fragment != "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "client or redirect URI unknown")
	}
	for name, values := range q {
		if len(values) > 1 && name != "resource" {
			return oauthError(http.StatusBadRequest, "invalid_request", "repeated parameter "+name)
		}
	}
	return nil
}

// refuses gives the error code for a request that cannot be granted; "" for one that
// can.
func (s *Server) refuses(q url.Values) string {
	switch {
	case q.Get("response_type") != "code":
		return "unsupported_response_type"
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		return "invalid_request"
	case !s.knowsTargets(q["resource"]):
		return "invalid_target"
	case !slices.Contains([]string{"", "query", "form_post"}, q.Get("response_mode")) && !s.signsResponse(q.Get("response_mode")):
		return "invalid_request"
	}
	return ""
}

// formPost answers with a page that posts itself (OAuth 2.0 Form Post Response Mode).
func formPost(action string, params url.Values) *response {
	var b strings.Builder
	fmt.Fprintf(&b, `<!doctype html><title>Signing in</title><body onload="document.forms[0].submit()"><form method="post" action="%s">`, html.EscapeString(action))
	for name := range params {
		fmt.Fprintf(&b, `<input type="hidden" name="%s" value="%s">`, html.EscapeString(name), html.EscapeString(params.Get(name)))
	}
	b.WriteString(`<button>Continue</button></form>`)
	return &response{status: http.StatusOK, body: []byte(b.String()), header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}
}

// Login follows an authorization URL as a browser would and returns the URL that
// the browser is sent back to. It works with the response modes of queries alone.
func (s *Server) Login(authorizationURL string) (*url.URL, error) {
	w, err := s.visit(authorizationURL)
	if err != nil {
		return nil, err
	}
	if w.Code != http.StatusFound {
		return nil, fmt.Errorf("astest: authorization endpoint answered %d: %s", w.Code, w.Body)
	}
	return url.Parse(w.Header().Get("Location"))
}

// hidden finds the fields of the form that formPost makes.
var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// LoginByForm is Login for the response modes of forms: it returns what the browser
// is to post.
func (s *Server) LoginByForm(authorizationURL string) (url.Values, error) {
	w, err := s.visit(authorizationURL)
	if err != nil {
		return nil, err
	}
	form := url.Values{}
	for _, field := range hidden.FindAllStringSubmatch(w.Body.String(), -1) {
		form.Add(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	if w.Code != http.StatusOK || len(form) == 0 {
		return nil, fmt.Errorf("astest: authorization endpoint answered %d: %s", w.Code, w.Body)
	}
	return form, nil
}

func (s *Server) visit(authorizationURL string) (*httptest.ResponseRecorder, error) {
	r, err := http.NewRequest(http.MethodGet, authorizationURL, http.NoBody)
	if err != nil {
		return nil, err
	}
	if got := r.URL.Scheme + "://" + r.URL.Host; !strings.HasPrefix(s.Issuer(), got) {
		return nil, fmt.Errorf("astest: authorization URL leads to %s", got)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w, nil
}
