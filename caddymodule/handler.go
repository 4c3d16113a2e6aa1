// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
	"github.com/caddy-bff/caddy-bff/session"
)

func init() { caddy.RegisterModule(Handler{}) }

// Handler is the OAuth client of a browser-based application: it signs users
// in at an authorization server, keeps their sessions and tokens, and serves the
// endpoints below `base_path`. It attaches no token itself and guards nothing:
// what comes after it on the same request, `bff_protect` and `bff_proxy`, uses
// the session that it makes available. It takes the gateway's cookies, the CSRF
// header and identity headers that the client made up off the request.
//
// Placeholders of a request that has passed it (empty without a session):
//
//	Placeholder | Description
//	------------|------------
//	`{http.auth.user.id}`      | subject of the session, the claim `sub`
//	`{http.auth.user.<claim>}` | a claim of the ID token
//	`{http.bff.session.id}`    | public handle of the session, never the cookie
//	`{http.bff.error}`         | code of the error that the gateway answered with
type Handler struct {
	// Issuer identifier of the authorization server. Required. Plain http is
	// accepted on loopback only. Placeholders are replaced once, at load.
	Issuer string `json:"issuer,omitempty"`
	// Tenants makes Issuer one for the users of several tenants, such as Microsoft's
	// https://login.microsoftonline.com/organizations/v2.0, whose tokens name the issuer
	// of their own tenant: the tenant IDs that may sign in, or * for whoever has an
	// account there. Placeholders as in Issuer. Default: none; the tokens of such an
	// issuer are refused.
	Tenants []string `json:"tenants,omitempty"`
	// Metadata is the authorization server's metadata by hand; none is fetched. Default:
	// it is found from Issuer.
	Metadata *MetadataOptions `json:"metadata,omitempty"`
	// ClientID is the client identifier. Required. Placeholders as in Issuer.
	ClientID string `json:"client_id,omitempty"`
	// ClientSecret is the client secret: {env.X} or {file.path}. A file is read
	// at each use. A literal secret can be read in the configuration; braces in
	// it that name no placeholder are part of it.
	ClientSecret string `json:"client_secret,omitempty"`
	// ClientAuth is how the client authenticates. Default: client_secret_basic.
	// Without a secret, something else has to be asked for.
	ClientAuth *ClientAuthOptions `json:"client_auth,omitempty"`
	// Name identifies this application where several share a host: it is the
	// suffix of the cookies' names, and the label site of the metrics; letters,
	// digits, "-" and "_". Placeholders as in Issuer. Default: none; the label is
	// then made from client identifier and issuer.
	Name string `json:"name,omitempty"`
	// Scope of the authorization request; openid has to be in it, since the ID
	// token says who signed in. Default: openid profile, and
	// offline_access where the authorization server's metadata lists it.
	Scope []string `json:"scope,omitempty"`
	// Resource are the resource indicators (RFC 8707) of the default access token,
	// absolute URIs without fragment: sent with the authorization request, the code
	// and each refresh. A session whose token was got for others gets a new one.
	// Placeholders as in Issuer. Default: none.
	Resource []string `json:"resource,omitempty"`
	// AuthorizationParam are further parameters of every authorization request,
	// one value each; resource may have several, which come beside those of
	// Resource: there the resources are named that only some `bff_proxy` has. Not those that are made for each
	// login (state, nonce, redirect_uri and so on).
	AuthorizationParam map[string][]string `json:"authorization_param,omitempty"`
	// LoginParam are the query parameters of `login` that are passed on. Not
	// those that the gateway sets itself, nor its own (return_to, force).
	// Default: prompt, login_hint, ui_locales, acr_values, max_age.
	LoginParam []string `json:"login_param,omitempty"`
	// UserInfo is on to add the claims of the UserInfo endpoint (OpenID Connect Core
	// section 5.3) to those of the ID token, which count where both have one: at
	// login, which fails if they cannot be had, and with each refresh on request,
	// where those that are there stay. Default: off.
	UserInfo string `json:"userinfo,omitempty"`
	// ResponseMode of the authorization response: query or form_post, or signed by
	// the authorization server (JARM): query.jwt, form_post.jwt, or jwt, which is
	// query.jwt. Default: query.
	ResponseMode string `json:"response_mode,omitempty"`
	// PAR says when authorization requests are pushed to the authorization server, so
	// that browsers carry a reference alone (RFC 9126): auto, where its metadata has
	// the endpoint; required, or there is no login; off. Default: auto.
	PAR string `json:"par,omitempty"`
	// RequestObject says when authorization requests are signed (RFC 9101), with the
	// key of ClientAuth: auto, where the metadata of the authorization server demands
	// it; required; off. Default: auto.
	RequestObject string `json:"request_object,omitempty"`
	// DPoP is on to have the tokens of each new login bound to a key of its own (RFC
	// 9449), which the authorization server has to support: then nobody can use a
	// stolen one. A login whose tokens are not bound fails. Sessions that are there
	// stay what they are. See docs/dpop.md. Default: off.
	DPoP string `json:"dpop,omitempty"`
	// TrustCA are PEM files with further roots for calls to the authorization server.
	TrustCA []string `json:"trust_ca,omitempty"`
	// HTTPTimeout bounds one call to the authorization server; a refresh may
	// take 30 s. Default: 10s.
	HTTPTimeout caddy.Duration `json:"http_timeout,omitempty"`
	// PublicOrigin is the origin that browsers use. Default: scheme and host of
	// the request; X-Forwarded-Proto counts from trusted proxies only. Plain http
	// is accepted on loopback only. Placeholders as in Issuer.
	PublicOrigin string `json:"public_origin,omitempty"`
	// BasePath is the path below which the endpoints are, of letters, digits and
	// -._~ between slashes. Where several `bff` handle one request, none of their
	// base paths may be another's or below it. Default: /bff.
	BasePath string `json:"base_path,omitempty"`
	// ReturnOrigins are further origins that a return URL may name. Default: none.
	ReturnOrigins []string `json:"return_origins,omitempty"`
	// TrustedOrigins are further origins whose scripts may call with
	// credentials. Default: none.
	TrustedOrigins []string `json:"trusted_origins,omitempty"`
	// Claims are those that the browser may see; * for all. Default: sub, name,
	// preferred_username, email, picture.
	Claims []string `json:"claims,omitempty"`
	// Cookie is how the session cookie is made.
	Cookie *CookieOptions `json:"cookie,omitempty"`
	// Session is how long sessions last.
	Session *SessionOptions `json:"session,omitempty"`
	// Refresh is when access tokens are refreshed.
	Refresh *RefreshOptions `json:"refresh,omitempty"`
	// AccessToken is how access tokens are judged.
	AccessToken *AccessTokenOptions `json:"access_token,omitempty"`
	// Logout is what happens when a user signs out.
	Logout *LogoutOptions `json:"logout,omitempty"`
	// CSRFHeader is the header that scripts of the application send.
	// Default: X-CSRF with the value 1.
	CSRFHeader *CSRFHeader `json:"csrf_header,omitempty"`
	// ErrorPages says who makes the error pages: builtin, or caddy for the
	// site's handle_errors. Default: builtin.
	ErrorPages string `json:"error_pages,omitempty"`

	publicOrigin        string
	returnURLs          returnurl.Rules
	trustedOrigins      []string
	resources           []protectedResource
	csrfName, csrfValue string
	claims              map[string]bool // nil: all
	afterLogout         string
	healAny401          bool
	clientModule        *clientModule

	app         *App
	backend     *session.Backend
	manager     *session.Manager
	credentials *clientCredentials
	release     []func() // give back to pools what was taken, last first
	logger      *slog.Logger

	failures *failureLog
	said     *said
	metrics  *siteMetrics
}

// said is what a handler logs once.
type said struct {
	cleartext sync.Once // that plain http is for development
	nested    sync.Once // that another bff serves its endpoints
}

// CookieOptions are those of the session cookie.
type CookieOptions struct {
	// SameSite is strict or lax. Default: strict.
	SameSite string `json:"same_site,omitempty"`
}

// SessionOptions are the two clocks of a session; it ends at the earlier one.
type SessionOptions struct {
	// IdleTimeout ends a session without activity. Not longer than Lifetime.
	// Default: 30m.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`
	// Lifetime ends every session. Default: 12h.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
	// MaxPerUser is how many sessions a user may have here; a further login ends
	// the one that was idle for longest. Default: 50.
	MaxPerUser int64 `json:"max_per_user,omitempty"`
}

// RefreshOptions say when an access token is refreshed.
type RefreshOptions struct {
	// Before is how long before its expiry a token is refreshed. Default: the
	// smaller of 60s and a fifth of the token's life.
	Before caddy.Duration `json:"before,omitempty"`
	// On is which 401 of a resource server causes a refresh: invalid_token
	// (and a bare one while the expiry is unknown) or any_401.
	// Default: invalid_token.
	On string `json:"on,omitempty"`
	// Rotation is what the authorization server does to a refresh token that was
	// used: auto (not known), none, strict or grace. Default: auto.
	Rotation string `json:"rotation,omitempty"`
	// RotationGrace is how long a used refresh token still works, with
	// rotation grace.
	RotationGrace caddy.Duration `json:"rotation_grace,omitempty"`
}

// AccessTokenOptions say how an access token is judged.
type AccessTokenOptions struct {
	// Validate is auto (as a JWT where it is one that the issuer's keys verify,
	// by expiry otherwise), jwt (fails closed), introspection (the authorization
	// server is asked, and its answer counts for half a minute; fails closed) or
	// expiry. Default: auto.
	Validate string `json:"validate,omitempty"`
	// Audience are the acceptable audiences of a JWT, or of what an introspection
	// tells. Default: none, unchecked.
	Audience []string `json:"audience,omitempty"`
	// Leeway is the clock difference tolerated for nbf and iat, and with ID tokens,
	// logout tokens and signed authorization responses for exp too. Default: 30s.
	Leeway caddy.Duration `json:"leeway,omitempty"`
}

// LogoutOptions say what happens when a user signs out, here or elsewhere.
type LogoutOptions struct {
	// ReturnTo is where the browser goes afterwards: a path that is not below
	// BasePath, or a URL of one of ReturnOrigins. Default: /.
	ReturnTo string `json:"return_to,omitempty"`
	// Revoke is off to leave out the revocation of the refresh token. Default: on.
	Revoke string `json:"revoke,omitempty"`
	// Backchannel is off to refuse the logout tokens of the authorization server
	// at `backchannel`, the back-channel logout URI to register there. Default: on.
	Backchannel string `json:"backchannel,omitempty"`
	// Frontchannel is on to end the session that `frontchannel?iss=&sid=` names,
	// the front-channel logout URI to register. Anybody who knows a sid may ask, so
	// use it only where the authorization server has no back-channel logout.
	// Default: off.
	Frontchannel string `json:"frontchannel,omitempty"`
	// IDTokenHint is when the ID token is sent along: auto (where the server may
	// insist on it), on or off. Default: auto.
	IDTokenHint string `json:"id_token_hint,omitempty"`
}

// CSRFHeader is a request header that no foreign page can send, and no browser
// or proxy by itself: X-CSRF, but not DNT or Accept, nor Sec-, Proxy- and the like.
type CSRFHeader struct {
	// Name of the header.
	Name string `json:"name,omitempty"`
	// Value that it has to have: printable ASCII, no space at its ends.
	Value string `json:"value,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bff", New: func() caddy.Module { return new(Handler) }}
}

// MarshalLogObject says as much of the handler as a log may hold: Caddy traces
// handlers by logging them whole.
func (h *Handler) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("issuer", h.Issuer)
	enc.AddString("client_id", h.ClientID)
	enc.AddString("base_path", h.BasePath)
	return nil
}

// ServeHTTP serves the endpoints, and passes everything else on with the
// session at hand.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// A configuration may go away under this request. The store must not.
	if h.backend.Retain() {
		defer h.backend.Release()
	}
	if earlier, ok := handleFrom(r.Context()); ok && overlapping(earlier.bff.BasePath, h.BasePath) {
		return h.refuseNested(w, r, earlier)
	}
	hd := h.newHandle(r)
	if hd.siteErr == nil && strings.HasPrefix(hd.origin, "http://") {
		h.warnCleartext(hd.origin)
	}
	defer hd.count()
	r = r.WithContext(hd.put(r.Context()))
	if name, ours := h.endpoint(hd); ours {
		return hd.serveEndpoint(w, r, name)
	}
	if res, ours := hd.protectedResource(); ours {
		return hd.serveProtectedResource(w, r, res)
	}
	return next.ServeHTTP(w, r)
}

// warnCleartext says once that a site is not for production.
func (h *Handler) warnCleartext(origin string) {
	h.said.cleartext.Do(func() {
		h.logger.Warn("plain http on loopback is for development only: the cookies are without Secure and without the prefix __Host-Http-, so do not keep real sessions here", "origin", origin)
	})
}

// errNested: two `bff` ran on one request, and the first serves the endpoints of both.
var errNested = errors.New("two bff with overlapping base paths handle the same request")

// refuseNested answers a request that another `bff` with the same endpoints has
// handled: its user would be asked to sign in again and again. The configuration
// is refused where that can be seen; here matchers turned out to overlap.
func (h *Handler) refuseNested(w http.ResponseWriter, r *http.Request, earlier *handle) error {
	h.said.nested.Do(func() {
		h.logger.Error("two bff handle the same request, and the first serves the endpoints of both: keep them apart with handle blocks, "+
			"or give them base paths of which neither is below the other", "first", earlier.bff.String(), "second", h.String(), "path", r.URL.Path)
	})
	return earlier.fail(w, r, &httpError{code: codeMisconfigured, err: errNested})
}

// endpoint reports whether the path that the browser sent is below the base
// path, in any spelling, and which endpoint it names. Only the plain spelling
// names one; whatever else lies below the base path is nobody's.
func (h *Handler) endpoint(hd *handle) (name string, ours bool) {
	p := hd.url.EscapedPath()
	if rest, ok := strings.CutPrefix(p, h.BasePath); ok && (rest == "" || rest[0] == '/') {
		return strings.TrimPrefix(rest, "/"), true
	}
	if strings.ContainsAny(p, "%;") || strings.Contains(p, "//") || strings.Contains(p, "/.") {
		decoded, _, _ := strings.Cut(hd.url.Path, ";")
		if returnurl.Below(path.Clean("/"+decoded), h.BasePath) {
			return "", true
		}
	}
	return "", false
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ zapcore.ObjectMarshaler     = (*Handler)(nil)
)
