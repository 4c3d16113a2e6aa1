// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	errorPagesBuiltin = "builtin"
	errorPagesCaddy   = "caddy"

	defaultBasePath    = "/bff"
	defaultAfterLogout = "/"
)

// Provision sets defaults, checks what was written and takes references to what
// outlives this configuration. It makes no network call and opens no store.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger, h.failures, h.said = ctx.Slogger(), &failureLog{}, new(said)
	h.setDefaults()
	if err := checkPlacements(ctx); err != nil {
		return err
	}
	if err := h.provision(ctx); err != nil {
		return fmt.Errorf("bff of %s%s: %w", loadingSite(ctx), h.called(), err)
	}
	return nil
}

func (h *Handler) provision(ctx caddy.Context) error {
	if err := h.checkRequired(); err != nil {
		return err
	}
	if err := h.replacePlaceholders(); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	app, err := ctx.App("bff")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	h.metrics = metrics.ofSite(h.metricsName())
	if strings.HasPrefix(h.publicOrigin, "http://") {
		h.warnCleartext(h.publicOrigin)
	}
	return h.takeManager()
}

// String names the handler in messages.
func (h *Handler) String() string {
	s := fmt.Sprintf("bff (base_path %s, client_id %s, issuer %s", h.BasePath, h.ClientID, withoutUserInfo(h.Issuer))
	if h.Name != "" {
		s += ", name " + h.Name
	}
	return s + ")"
}

// called tells the applications of a site apart in messages.
func (h *Handler) called() string {
	switch {
	case h.Name != "":
		return fmt.Sprintf(" (name %s)", h.Name)
	case h.ClientID != "":
		return fmt.Sprintf(" (client_id %s)", h.ClientID)
	}
	return ""
}

func (h *Handler) setDefaults() {
	setDefault(&h.UserInfo, "off")
	setDefault(&h.DPoP, "off")
	setDefault(&h.ResponseMode, oauth.ResponseModeQuery)
	setDefault(&h.PAR, string(oauth.PARAuto))
	setDefault(&h.RequestObject, string(oauth.RequestObjectAuto))
	setDefault(&h.BasePath, defaultBasePath)
	setDefault(&h.ErrorPages, errorPagesBuiltin)
	if h.ClientAuth == nil {
		h.ClientAuth = &ClientAuthOptions{}
	}
	if h.ClientSecret != "" {
		setDefault(&h.ClientAuth.Method, string(oauth.AuthClientSecretBasic))
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
		h.CSRFHeader = defaultCSRFHeader()
	}
	setDefault(&h.Cookie.SameSite, "strict")
	setDefault(&h.Refresh.On, "invalid_token")
	setDefault(&h.Refresh.Rotation, "auto")
	setDefault(&h.AccessToken.Validate, "auto")
	setDefault(&h.Logout.ReturnTo, defaultAfterLogout)
	setDefault(&h.Logout.Revoke, "on")
	setDefault(&h.Logout.Backchannel, "on")
	setDefault(&h.Logout.Frontchannel, "off")
	setDefault(&h.Logout.IDTokenHint, "auto")
}

func defaultCSRFHeader() *CSRFHeader { return &CSRFHeader{Name: "X-CSRF", Value: "1"} }

func setDefault(v *string, to string) {
	if *v == "" {
		*v = to
	}
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
		if err := checkSecretLength(h.ClientAuth, secret.last); err != nil {
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
		h.Issuer, h.Tenants, h.Metadata, h.ClientID, h.ClientSecret, h.ClientAuth, h.Name, h.Scope, h.Resource, h.AuthorizationParam, h.PAR, h.RequestObject, rootsSum,
		h.HTTPTimeout, h.Cookie, h.Session, h.Refresh, h.AccessToken, h.UserInfo, h.DPoP, h.Logout.Revoke, h.Logout.IDTokenHint,
	})
	if err != nil {
		return err
	}
	if err := h.takeCredentials(); err != nil {
		return err
	}
	key := managerKey{backend: h.app.backendKey, ring: h.app.ringKey, config: sha256.Sum256(identity)}
	manager, release, err := managers.take(key, func() (*session.Manager, error) {
		return h.newManager(secret, roots)
	})
	if err != nil {
		return err
	}
	h.manager, h.backend, h.release = manager, h.app.backend, append(h.release, release)
	return nil
}

// takeCredentials reads the client's keys, or shares those of an equal
// configuration, which may know keys that were in the files before.
func (h *Handler) takeCredentials() error {
	a := h.ClientAuth
	if a.KeyFile == "" && a.Certificate == "" {
		h.credentials = new(clientCredentials)
		return nil
	}
	files, err := json.Marshal([]string{a.Method, a.KeyFile, a.KeyID, a.Alg, a.Certificate, a.PrivateKey})
	if err != nil {
		return err
	}
	c, release, err := credentials.take(string(files), a.newCredentials)
	if err != nil {
		return err
	}
	h.credentials, h.release = c, append(h.release, release)
	return nil
}

func (h *Handler) newManager(secret *configSecret, roots *x509.CertPool) (*session.Manager, error) {
	cfg := oauth.Config{
		Issuer: h.Issuer, Tenants: h.Tenants, Metadata: h.Metadata.oauth(), ClientID: h.ClientID, AuthMethod: h.ClientAuth.method(),
		SigningKey: h.credentials.signingKey, Certificate: h.credentials.certificate,
		Assertion: oauth.AssertionConfig{Audience: oauth.AssertionAudience(h.ClientAuth.Audience), Type: oauth.AssertionType(h.ClientAuth.Typ)},
		Scope:     h.Scope, Resource: h.Resource, Params: h.AuthorizationParam, PAR: oauth.PARMode(h.PAR), RequestObject: oauth.RequestObjectMode(h.RequestObject),
		DPoP:    h.DPoP == "on",
		Timeout: time.Duration(h.HTTPTimeout), Leeway: time.Duration(h.AccessToken.Leeway), Audience: h.AccessToken.Audience,
		Logger: processLog,
	}
	if h.ClientAuth.method() == oauth.AuthClientSecretJWT {
		cfg.Assertion.Alg = h.ClientAuth.Alg // that of a key is with the key
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
		IdleTimeout: time.Duration(h.Session.IdleTimeout), Lifetime: time.Duration(h.Session.Lifetime), MaxPerUser: int(h.Session.MaxPerUser),
		RefreshBefore: time.Duration(h.Refresh.Before), Rotation: session.Rotation(h.Refresh.Rotation), RotationGrace: time.Duration(h.Refresh.RotationGrace),
		Validate:        oauth.ValidateMode(h.AccessToken.Validate),
		UserInfo:        h.UserInfo == "on",
		KeepTokensAtEnd: h.Logout.Revoke == "off", IDTokenHint: session.IDTokenHint(h.Logout.IDTokenHint),
		Logger: processLog, Observer: h.metrics,
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
	for _, release := range slices.Backward(h.release) {
		release()
	}
	h.release = nil
	return nil
}
