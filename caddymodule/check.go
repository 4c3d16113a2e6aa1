// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// check says what the values of options have to be, and turns what was written
// into what is used. The Caddyfile adapter calls it, knowing the line, and
// Provision does, whatever the configuration was written in. Errors are of the
// type optionError. An empty Issuer, ClientID, PublicOrigin or Name is one that
// is not known yet.
func (h *Handler) check() error {
	for _, check := range []func() error{
		h.checkWords, h.checkDurations, h.checkClient, h.checkMetadata, h.checkAuthorization, h.checkOrigins, h.checkPaths, h.checkCSRFHeader,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	h.healAny401 = h.Refresh.On == "any_401"
	h.resources = h.protectedResources()
	if !slices.Contains(h.Claims, "*") {
		h.claims = make(map[string]bool, len(h.Claims))
		for _, c := range h.Claims {
			h.claims[c] = true
		}
	}
	return nil
}

// checkRequired asks for what has no default.
func (h *Handler) checkRequired() error {
	switch {
	case h.Issuer == "":
		return wrong("", "bff needs an issuer")
	case h.ClientID == "":
		return wrong("", "bff needs a client_id")
	case h.ClientSecret == "" && (h.ClientAuth == nil || h.ClientAuth.Method == ""):
		return wrong("", "bff needs a client_secret, or client_auth none for a public client, or a client_auth with a key or certificate of its own")
	}
	return nil
}

func (h *Handler) checkWords() error {
	for _, o := range []struct {
		option, value string
		words         []string
	}{
		{"response_mode", h.ResponseMode, oauth.ResponseModes()},
		{"par", h.PAR, []string{string(oauth.PARAuto), string(oauth.PARRequired), string(oauth.PAROff)}},
		{"request_object", h.RequestObject, []string{string(oauth.RequestObjectAuto), string(oauth.RequestObjectRequired), string(oauth.RequestObjectOff)}},
		{"dpop", h.DPoP, []string{"off", "on"}},
		{"userinfo", h.UserInfo, []string{"off", "on"}},
		{"error_pages", h.ErrorPages, []string{errorPagesBuiltin, errorPagesCaddy}},
		{"cookie same_site", h.Cookie.SameSite, []string{"strict", "lax"}},
		{"refresh on", h.Refresh.On, []string{"invalid_token", "any_401"}},
		{"access_token validate", h.AccessToken.Validate, []string{"auto", "jwt", "introspection", "expiry"}},
		{"logout revoke", h.Logout.Revoke, []string{"on", "off"}},
		{"logout backchannel", h.Logout.Backchannel, []string{"on", "off"}},
		{"logout frontchannel", h.Logout.Frontchannel, []string{"on", "off"}},
		{"logout id_token_hint", h.Logout.IDTokenHint, []string{"auto", "on", "off"}},
	} {
		if err := oneOf(o.option, o.value, o.words...); err != nil {
			return err
		}
	}
	const rotation = "refresh rotation"
	switch rot, grace := h.Refresh.Rotation, time.Duration(h.Refresh.RotationGrace); {
	case !slices.Contains([]string{"auto", "none", "strict", "grace"}, rot):
		return wrong(rotation, "%s is %q, should be one of: auto, none, strict, grace <duration>", rotation, rot)
	case rot == "grace" && grace <= 0:
		return wrong(rotation, "%s grace needs a duration above zero, such as 10s", rotation)
	case rot != "grace" && grace != 0:
		return wrong(rotation, "%s %s takes no duration, and has %s", rotation, rot, grace)
	}
	return nil
}

// maxPerUser bounds the number of sessions of a user: a login looks at all of
// them, and stores index no more.
const maxPerUser = 1000

func (h *Handler) checkDurations() error {
	for _, o := range []struct {
		option string
		value  caddy.Duration
	}{
		{"http_timeout", h.HTTPTimeout},
		{"session idle_timeout", h.Session.IdleTimeout},
		{"session lifetime", h.Session.Lifetime},
		{"refresh before", h.Refresh.Before},
		{"access_token leeway", h.AccessToken.Leeway},
	} {
		if o.value < 0 {
			return wrong(o.option, "%s is %s, should be above zero", o.option, time.Duration(o.value))
		}
	}
	if n := h.Session.MaxPerUser; n < 0 || n > maxPerUser {
		return wrong("session max_per_user", "session max_per_user is %d, should be a number from 1 to %d", n, maxPerUser)
	}
	lifetime := time.Duration(h.Session.Lifetime)
	if lifetime == 0 {
		lifetime = session.DefaultLifetime
	}
	if idle := time.Duration(h.Session.IdleTimeout); idle > lifetime {
		return wrong("session idle_timeout", "session idle_timeout is %s, which the lifetime of %s never lets happen", idle, lifetime)
	}
	switch a := h.AccessToken; {
	case a.Validate == "expiry" && len(a.Audience) > 0:
		return wrong("access_token validate", "access_token: audience means nothing with validate expiry")
	case slices.Contains(a.Audience, ""):
		return wrong("access_token audience", "access_token audience has an empty value")
	}
	return nil
}

// tryClient lets the package that is going to use the values of a client judge
// them: what cfg does not say is filled in with something acceptable.
func tryClient(cfg oauth.Config) (problem string, ok bool) {
	if cfg.Issuer == "" {
		cfg.Issuer = "https://issuer.invalid"
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "client"
	}
	cfg.AuthMethod = oauth.AuthNone
	if _, err := oauth.New(cfg); err != nil {
		return strings.TrimPrefix(err.Error(), "oauth: "), false
	}
	return "", true
}

func (h *Handler) checkClient() error {
	if problem, ok := tryClient(oauth.Config{Issuer: h.Issuer}); !ok {
		return wrong("issuer", "issuer is %q: %s", withoutUserInfo(h.Issuer), problem)
	}
	if problem, ok := tryClient(oauth.Config{ClientID: h.ClientID}); !ok {
		return wrong("client_id", "client_id is %q: %s", h.ClientID, problem)
	}
	leeway := time.Duration(h.AccessToken.Leeway)
	if problem, ok := tryClient(oauth.Config{Leeway: leeway}); !ok {
		return wrong("access_token leeway", "access_token leeway is %s: %s", leeway, problem)
	}
	if err := h.checkClientAuth(); err != nil {
		return err
	}
	// The manager is the one to know what a cookie's name may end with.
	_, err := session.NewManager(session.Config{
		Backend: new(session.Backend), Ring: new(session.KeyRing), Client: new(oauth.Client),
		Issuer: "i", ClientID: "c", Name: h.Name, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return wrong("name", "%s", strings.TrimPrefix(err.Error(), "session: "))
	}
	return nil
}

func withoutUserInfo(u string) string {
	if i := strings.LastIndexByte(u, '@'); i >= 0 {
		scheme, _, _ := strings.Cut(u, "://")
		return scheme + "://[redacted]" + u[i:]
	}
	return u
}

func (h *Handler) checkAuthorization() error {
	for _, token := range h.Scope {
		if problem, ok := tryClient(oauth.Config{Scope: []string{token}}); !ok {
			return wrong("scope", "scope: %s", problem)
		}
	}
	// Who signed in is known from the ID token alone (OpenID Connect Core
	// section 3.1.2.1), so every login would fail.
	if len(h.Scope) > 0 && !slices.Contains(h.Scope, "openid") {
		return wrong("scope", "scope is %q and lacks openid, without which there is no ID token and nobody can sign in", strings.Join(h.Scope, " "))
	}
	for i, uri := range h.Resource {
		if err := oauth.CheckResource(uri); err != nil {
			return wrong("resource", "%w", err)
		}
		if slices.Contains(h.Resource[:i], uri) {
			return wrong("resource", "resource: %q appears twice", uri)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.AuthorizationParam)) {
		if err := h.checkAuthorizationParam(name); err != nil {
			return err
		}
	}
	for i, name := range h.LoginParam {
		if err := checkLoginParam(name); err != nil {
			return err
		}
		if slices.Contains(h.LoginParam[:i], name) {
			return wrong("login_param", "login_param: %q appears twice", name)
		}
	}
	return nil
}

// checkAuthorizationParam checks the values of one parameter, of which RFC 6749
// section 3.1 allows one only; but RFC 8707 section 2 repeats resource.
func (h *Handler) checkAuthorizationParam(name string) error {
	const option = "authorization_param"
	values := h.AuthorizationParam[name]
	if name == "" {
		return wrong(option, "%s has an empty name", option)
	}
	if _, ok := tryClient(oauth.Config{Params: map[string][]string{name: values}}); !ok {
		return wrong(option, "%s: %q is not for the configuration to say: it is made for each login", option, name)
	}
	switch {
	case len(values) == 0 || slices.Contains(values, ""):
		return wrong(option, "%s %q needs a value", option, name)
	case len(values) > 1 && name != "resource":
		return wrong(option, "%s %q is given more than once", option, name)
	case len(values) != len(slices.Compact(slices.Sorted(slices.Values(values)))):
		return wrong(option, "%s %q has the same value twice", option, name)
	case strings.Contains(values[0], "{env.") || strings.Contains(values[0], "{file."):
		return nil // not known yet
	}
	if err := oauth.CheckAuthenticationParam(name, values[0]); err != nil {
		return wrong(option, "%s: %w", option, err)
	}
	return nil
}

// loginParams are the parameters of `login` that are meant for the gateway.
var loginParams = append([]string{"force", bffErrorParam, stepUpParam}, returnParams...)

// checkLoginParam checks the name of a parameter that the browser may hand on to
// the authorization server.
func checkLoginParam(name string) error {
	_, ok := tryClient(oauth.Config{Params: map[string][]string{name: {"x"}}})
	switch {
	case name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }):
		return wrong("login_param", "login_param: %q is no name of a parameter", name)
	case !ok || slices.Contains(reservedLoginParams, name):
		return wrong("login_param", "login_param: %s is not for the browser to say", name)
	case slices.Contains(loginParams, name):
		return wrong("login_param", "login_param: %s is the gateway's own and does not go on to the authorization server", name)
	}
	return nil
}

func (h *Handler) checkOrigins() error {
	if h.PublicOrigin != "" {
		origin, err := parseOrigin(h.PublicOrigin)
		if err != nil {
			return wrong("public_origin", "public_origin: %w", err)
		}
		h.publicOrigin = origin
	}
	for _, list := range []struct {
		option string
		in     []string
		out    *[]string
	}{
		{"return_origins", h.ReturnOrigins, &h.returnURLs.Origins},
		{"trusted_origins", h.TrustedOrigins, &h.trustedOrigins},
	} {
		*list.out = nil
		for _, s := range list.in {
			origin, err := parseOrigin(s)
			if err != nil {
				return wrong(list.option, "%s: %w", list.option, err)
			}
			*list.out = append(*list.out, origin)
		}
	}
	return nil
}

// basePathForm leaves no character that anything between the browser and here
// reads in two ways: no escapes, parameters, wildcards, braces or empty segments.
var basePathForm = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

func (h *Handler) checkPaths() error {
	segments := strings.Split(h.BasePath, "/")
	if !basePathForm.MatchString(h.BasePath) || slices.Contains(segments, ".") || slices.Contains(segments, "..") {
		return wrong("base_path", "base_path is %q, should be a plain path such as /bff, of letters, digits and -._~ between slashes", h.BasePath)
	}
	h.returnURLs.BasePath = h.BasePath
	var err error
	if h.afterLogout, err = h.returnURLs.Parse(h.Logout.ReturnTo); err != nil {
		return wrong("logout return_to", "logout return_to is %q, should be a path of the site, or a URL of one of return_origins, and not below base_path", h.Logout.ReturnTo)
	}
	return nil
}

func (h *Handler) checkCSRFHeader() error {
	const option = "csrf_header"
	name, value := h.CSRFHeader.Name, h.CSRFHeader.Value
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return wrong(option, "%s: %q is no name of a header", option, name)
	case strings.HasPrefix(strings.ToLower(name), "x-bff-"):
		return wrong(option, "%s: the gateway keeps names that begin with X-BFF- for itself", option)
	case ambientHeader(name):
		return wrong(option, "%s: %s is a header that browsers or proxies send by themselves, or that any page may send", option, name)
	case value == "" || strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }):
		return wrong(option, "%s: %q is no value that arrives as it was sent: it needs printable ASCII characters, and no space at its ends", option, value)
	}
	h.csrfName, h.csrfValue = http.CanonicalHeaderKey(name), value
	h.clientModule = newClientModule(h.csrfName, h.csrfValue)
	return nil
}
