// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	errorPagesBuiltin = "builtin"
	errorPagesCaddy   = "caddy"

	responseModeQuery    = "query"
	responseModeFormPost = "form_post"
)

// Provision sets defaults, checks what was written and takes references to what
// outlives this configuration. It makes no network call and opens no store.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger, h.failures = ctx.Slogger(), &failureLog{}
	h.setDefaults()
	repl := caddy.NewReplacer()
	for _, v := range []*string{&h.Issuer, &h.ClientID, &h.PublicOrigin, &h.Name} {
		out, err := repl.ReplaceOrErr(*v, true, true)
		if err != nil {
			return err
		}
		*v = out
	}
	if err := h.check(); err != nil {
		return err
	}
	app, err := ctx.App("bff")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	return h.takeManager()
}

func (h *Handler) setDefaults() {
	setDefault(&h.ResponseMode, responseModeQuery)
	setDefault(&h.BasePath, "/bff")
	setDefault(&h.ErrorPages, errorPagesBuiltin)
	if h.ClientAuth == "" && h.ClientSecret != "" {
		h.ClientAuth = string(oauth.AuthClientSecretBasic)
	}
	if h.LoginParam == nil {
		h.LoginParam = []string{"prompt", "login_hint", "ui_locales", "acr_values", "max_age"}
	}
	if h.Claims == nil {
		h.Claims = []string{"sub", "name", "preferred_username", "email", "picture"}
	}
	if h.Cookie == nil {
		h.Cookie = &CookieOptions{}
	}
	if h.Session == nil {
		h.Session = &SessionOptions{}
	}
	if h.Refresh == nil {
		h.Refresh = &RefreshOptions{}
	}
	if h.AccessToken == nil {
		h.AccessToken = &AccessTokenOptions{}
	}
	if h.Logout == nil {
		h.Logout = &LogoutOptions{}
	}
	if h.CSRFHeader == nil {
		h.CSRFHeader = &CSRFHeader{Name: "X-CSRF", Value: "1"}
	}
	setDefault(&h.Cookie.SameSite, "strict")
	setDefault(&h.Refresh.On, "invalid_token")
	setDefault(&h.Refresh.Rotation, "auto")
	setDefault(&h.AccessToken.Validate, "auto")
	setDefault(&h.Logout.ReturnTo, "/")
	setDefault(&h.Logout.Revoke, "on")
	setDefault(&h.Logout.IDTokenHint, "auto")
}

func setDefault(v *string, to string) {
	if *v == "" {
		*v = to
	}
}

// check turns what was written into what is used.
func (h *Handler) check() error {
	if h.Issuer == "" || h.ClientID == "" {
		return errors.New("issuer and client_id are required")
	}
	for _, o := range []struct {
		name, value string
		allowed     []string
	}{
		{"response_mode", h.ResponseMode, []string{responseModeQuery, responseModeFormPost}},
		{"error_pages", h.ErrorPages, []string{errorPagesBuiltin, errorPagesCaddy}},
		{"cookie same_site", h.Cookie.SameSite, []string{"strict", "lax"}},
		{"refresh on", h.Refresh.On, []string{"invalid_token", "any_401"}},
		{"refresh rotation", h.Refresh.Rotation, []string{"auto", "none", "strict", "grace"}},
		{"access_token validate", h.AccessToken.Validate, []string{"auto", "jwt", "expiry"}},
		{"logout revoke", h.Logout.Revoke, []string{"on", "off"}},
		{"logout id_token_hint", h.Logout.IDTokenHint, []string{"auto", "on", "off"}},
	} {
		if !slices.Contains(o.allowed, o.value) {
			return fmt.Errorf("%s is %q, should be one of: %s", o.name, o.value, strings.Join(o.allowed, ", "))
		}
	}
	if (h.Refresh.Rotation == "grace") != (h.Refresh.RotationGrace > 0) {
		return errors.New("refresh rotation: grace, and only grace, takes a duration")
	}
	for name, d := range map[string]caddy.Duration{
		"http_timeout": h.HTTPTimeout, "session idle_timeout": h.Session.IdleTimeout, "session lifetime": h.Session.Lifetime,
		"refresh before": h.Refresh.Before, "access_token leeway": h.AccessToken.Leeway, "refresh rotation": h.Refresh.RotationGrace,
	} {
		if d < 0 {
			return fmt.Errorf("%s is negative", name)
		}
	}
	if err := h.checkClient(); err != nil {
		return err
	}
	if err := h.checkOrigins(); err != nil {
		return err
	}
	if h.AccessToken.Validate == "expiry" && (len(h.AccessToken.Audience) > 0 || h.AccessToken.Leeway > 0) {
		return errors.New("access_token: audience and leeway mean nothing with validate expiry")
	}
	h.healAny401 = h.Refresh.On == "any_401"
	if !slices.Contains(h.Claims, "*") {
		h.claims = make(map[string]bool, len(h.Claims))
		for _, c := range h.Claims {
			h.claims[c] = true
		}
	}
	return h.checkPaths()
}

func (h *Handler) checkClient() error {
	for _, name := range h.LoginParam {
		if slices.Contains(reservedLoginParams, name) {
			return fmt.Errorf("login_param: %s is not for the browser to say", name)
		}
	}
	switch oauth.AuthMethod(h.ClientAuth) {
	case oauth.AuthClientSecretBasic, oauth.AuthClientSecretPost:
		if h.ClientSecret == "" {
			return fmt.Errorf("client_auth %s needs a client_secret", h.ClientAuth)
		}
	case oauth.AuthNone:
		if h.ClientSecret != "" {
			return errors.New("client_auth none takes no client_secret")
		}
	case "":
		return errors.New("the client has no credential: give a client_secret, or client_auth none for a public client")
	default:
		return fmt.Errorf("client_auth is %q, should be one of: client_secret_basic, client_secret_post, none", h.ClientAuth)
	}
	return nil
}

func (h *Handler) checkOrigins() error {
	if h.PublicOrigin != "" {
		origin, err := parseOrigin(h.PublicOrigin)
		if err != nil {
			return fmt.Errorf("public_origin: %w", err)
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
				return fmt.Errorf("%s: %w", list.option, err)
			}
			*list.out = append(*list.out, origin)
		}
	}
	return nil
}

func (h *Handler) checkPaths() error {
	h.returnURLs.BasePath = "" // it is looked at itself first
	base, err := h.returnURLs.Parse(h.BasePath)
	if err != nil || base != h.BasePath || len(base) < 2 || strings.HasSuffix(base, "/") || strings.ContainsAny(base, "?#%") {
		return fmt.Errorf("base_path is %q, should be a plain path such as /bff", h.BasePath)
	}
	h.returnURLs.BasePath = h.BasePath
	if h.afterLogout, err = h.returnURLs.Parse(h.Logout.ReturnTo); err != nil {
		return fmt.Errorf("logout return_to %q: %w", h.Logout.ReturnTo, err)
	}
	h.csrfName, h.csrfValue = http.CanonicalHeaderKey(h.CSRFHeader.Name), h.CSRFHeader.Value
	if !httpguts.ValidHeaderFieldName(h.CSRFHeader.Name) || h.csrfValue == "" || !httpguts.ValidHeaderFieldValue(h.csrfValue) {
		return errors.New("csrf_header needs the name of a header and a value")
	}
	if safelisted[strings.ToLower(h.csrfName)] {
		return fmt.Errorf("csrf_header: %s is a header that any page may send", h.CSRFHeader.Name)
	}
	h.clientModule = newClientModule(h.csrfName, h.csrfValue)
	return nil
}

// safelisted are request headers that a foreign page sends without a preflight
// (Fetch standard), or that browsers send by themselves.
var safelisted = map[string]bool{
	"accept": true, "accept-language": true, "content-language": true, "content-type": true, "range": true,
	"origin": true, "referer": true, "user-agent": true, "cookie": true, "host": true, "authorization": true,
	"connection": true, "content-length": true, "accept-encoding": true,
}

// takeManager makes the session manager, or shares the one of an equal
// configuration, of the one before a reload for instance.
func (h *Handler) takeManager() error {
	var secret *configSecret
	if h.ClientSecret != "" {
		var err error
		if secret, err = newConfigSecret("client_secret", h.ClientSecret); err != nil {
			return err
		}
		if secret.literal() {
			h.logger.Warn("the client secret stands in the configuration; use {env.X} or {file.path}", "client_id", h.ClientID)
		}
	}
	roots, rootsSum, err := readRoots(h.TrustCA)
	if err != nil {
		return fmt.Errorf("trust_ca: %w", err)
	}
	identity, err := json.Marshal([]any{
		h.Issuer, h.ClientID, h.ClientSecret, h.ClientAuth, h.Name, h.Scope, h.AuthorizationParam, rootsSum,
		h.HTTPTimeout, h.Cookie, h.Session, h.Refresh, h.AccessToken, h.Logout.Revoke, h.Logout.IDTokenHint,
	})
	if err != nil {
		return err
	}
	key := managerKey{backend: h.app.backendKey, ring: h.app.ringKey, config: sha256.Sum256(identity)}
	h.manager, h.release, err = managers.take(key, func() (*session.Manager, error) {
		return h.newManager(secret, roots)
	})
	h.backend = h.app.backend
	return err
}

func (h *Handler) newManager(secret *configSecret, roots *x509.CertPool) (*session.Manager, error) {
	cfg := oauth.Config{
		Issuer: h.Issuer, ClientID: h.ClientID, AuthMethod: oauth.AuthMethod(h.ClientAuth),
		Scope: h.Scope, Params: h.AuthorizationParam,
		Timeout: time.Duration(h.HTTPTimeout), Leeway: time.Duration(h.AccessToken.Leeway), Audience: h.AccessToken.Audience,
		Logger: processLog,
	}
	if secret != nil {
		cfg.ClientSecret = secret.value
	}
	if roots != nil {
		cfg.HTTP = &http.Client{Transport: oauth.NewTransport(roots)}
	}
	client, err := oauth.New(cfg)
	if err != nil {
		return nil, err
	}
	sameSite := http.SameSiteStrictMode
	if h.Cookie.SameSite == "lax" {
		sameSite = http.SameSiteLaxMode
	}
	return session.NewManager(session.Config{
		Backend: h.app.backend, Ring: h.app.ring, Client: client,
		Issuer: h.Issuer, ClientID: h.ClientID, Name: h.Name, SameSite: sameSite,
		IdleTimeout: time.Duration(h.Session.IdleTimeout), Lifetime: time.Duration(h.Session.Lifetime),
		RefreshBefore: time.Duration(h.Refresh.Before), Rotation: session.Rotation(h.Refresh.Rotation), RotationGrace: time.Duration(h.Refresh.RotationGrace),
		Validate:        oauth.ValidateMode(h.AccessToken.Validate),
		KeepTokensAtEnd: h.Logout.Revoke == "off", IDTokenHint: session.IDTokenHint(h.Logout.IDTokenHint),
		Logger: processLog,
	})
}

// readRoots reads PEM files into a pool that has the system's roots as well.
// The digest tells two sets of files apart.
func readRoots(files []string) (*x509.CertPool, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	if len(files) == 0 {
		return nil, sum, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	all := sha256.New()
	for _, name := range files {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, sum, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, sum, fmt.Errorf("%s: no certificate in it", name)
		}
		all.Write(pem)
	}
	all.Sum(sum[:0])
	return pool, sum, nil
}

// Cleanup gives back what Provision took. Requests may still be running: they
// hold references of their own.
func (h *Handler) Cleanup() error {
	if h.release != nil {
		h.release()
		h.release = nil
	}
	return nil
}
