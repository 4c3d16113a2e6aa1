// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

func init() {
	caddy.RegisterModule(Protect{})
	httpcaddyfile.RegisterHandlerDirective("bff_protect", parseProtect)
	httpcaddyfile.RegisterDirectiveOrder("bff_protect", httpcaddyfile.After, "forward_auth")
}

// What becomes of a request without a session.
const (
	unauthenticatedAuto  = "auto"  // documents go to login, everything else gets 401
	unauthenticated401   = "401"   // 401
	unauthenticatedLogin = "login" // GET and HEAD go to login
	unauthenticatedPass  = "pass"  // passes, when there provably is no session
)

// Whose access token goes along.
const (
	tokenUser = "user"
	tokenNone = "none"
)

// What shared caches may keep.
const (
	cachePrivate  = "private"
	cacheUpstream = "upstream"
)

// Protect lets a request pass only with a session of the `bff` that ran before
// it, and only if it comes from the application itself. It sets the identity
// placeholders of `bff`. It attaches no token: what passes is allowed to get one
// from a reverse proxy's transport `bff`.
//
// Checked in this order: WebSocket origin, document from another site, session,
// CSRF, rules, access token.
type Protect struct {
	// Unauthenticated is what becomes of a request without a session: auto
	// (documents are sent to login, everything else gets 401), 401, login (every
	// GET is sent to login) or pass (only when there provably is no session: an
	// outage of the store is 503). Default: auto.
	Unauthenticated string `json:"unauthenticated,omitempty"`
	// CSRF is auto (CSRF header, same origin by fetch metadata, or a harmless
	// navigation), strict (CSRF header) or off. A WebSocket's origin is checked
	// in all of them. Default: auto.
	CSRF string `json:"csrf,omitempty"`
	// Require are rules; all have to hold, else 403. They hold for nobody without
	// a session, so unauthenticated pass lets none pass a rule.
	Require []Rule `json:"require,omitempty"`
	// Activity is off where requests never extend the idle timeout. Default: on.
	Activity string `json:"activity,omitempty"`
	// AcceptBearer lets a request of a client without a session pass with a valid
	// access token of its own (RFC 6750), which then is what the resource server
	// gets. It needs a `bff` that validates by introspection, or as JWT with an
	// audience. A client that sends a cookie of ours is none without a session: its
	// Authorization header is taken off. Such a request needs no CSRF check; rules
	// are asked of the claims of its token. Default: off.
	AcceptBearer bool `json:"accept_bearer,omitempty"`
	// Token is user where the resource server gets the user's access token, which
	// is then waited for before it is called; none where it gets none. It is set
	// by bff_proxy. Default: the token is attached by a transport `bff`, if one
	// follows, and not waited for here.
	Token string `json:"token,omitempty"`
	// Resource is the resource indicator (RFC 8707) of the upstream, an absolute
	// URI without fragment. Instead of the default access token it gets one for this
	// resource alone, got with the same refresh token. Many authorization servers
	// want to have seen the resource in the authorization request: see resource and
	// authorization_param of `bff`. It is set by bff_proxy. Placeholders are
	// replaced once, at load. Default: none.
	Resource string `json:"resource,omitempty"`
	// Scope is the scope that the upstream's access token has, no more than what
	// was granted at login (RFC 6749 section 6), alone or with Resource. It is set by
	// bff_proxy. Placeholders as in Resource. Default: as granted.
	Scope []string `json:"scope,omitempty"`
	// Exchange gets the upstream's access token by token exchange (RFC 8693) of the
	// default one, in place of Resource and Scope: the way where a refresh makes the
	// authorization server revoke older access tokens. It is set by bff_proxy.
	// Default: none.
	Exchange *ExchangeOptions `json:"exchange,omitempty"`
	// StepUp answers 401 step_up_required, with a login_url, where the resource server
	// asks for a stronger or more recent authentication of the user (RFC 9470), or for
	// more scope (RFC 6750 section 3.1), in a challenge that says which; documents are
	// sent to that login as they are without a session. The upstream may have users
	// asked for any acr and any scope then. It is set by bff_proxy. Default: the
	// resource server's own answer passes, without the challenge.
	StepUp bool `json:"step_up,omitempty"`
	// DPoP has the upstream asked with access tokens alone that are bound to a key and
	// come with a proof (RFC 9449): a session whose tokens are not, from before `dpop
	// on` in `bff`, which it needs, is answered with token_unavailable. (Without it the
	// token decides: one that is bound never goes without a proof.) It is set by
	// bff_proxy. Default: off.
	DPoP bool `json:"dpop,omitempty"`
	// Cache is private where shared caches must not keep answers, upstream where
	// the resource server alone decides. It is set by bff_proxy. Default: private.
	Cache string `json:"cache,omitempty"`

	purpose *session.Purpose // nil: the default access token

	proxy bool                       // options of bff_proxy are known
	seen  map[string]bool            // options that were given
	at    map[string]caddyfile.Token // where
}

// CaddyModule returns the Caddy module information.
func (Protect) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bff_protect", New: func() caddy.Module { return new(Protect) }}
}

func parseProtect(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(Protect)
	if err := p.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return p, nil
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	bff_protect [<matcher>] {
//	    unauthenticated auto|401|login|pass
//	    csrf            auto|strict|off
//	    require         <claim> <value...>
//	    activity        on|off
//	    accept_bearer
//	}
func (p *Protect) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalOptions(d, func(o *options) error {
		known, err := p.unmarshalOption(d)
		if err == nil && !known {
			return o.unrecognized()
		}
		return err
	})
}

// unmarshalOption reads the option whose name d is at. known is false, and
// nothing is read, for a name that is not one of bff_protect (nor, with proxy
// set, one that bff_proxy adds).
func (p *Protect) unmarshalOption(d *caddyfile.Dispenser) (known bool, err error) {
	if p.seen == nil {
		p.seen, p.at = make(map[string]bool), make(map[string]caddyfile.Token)
	}
	o := &options{d: d, name: d.Val(), path: d.Val(), seen: p.seen, at: p.at}
	p.at[o.path] = d.Token()
	switch {
	case o.name == "unauthenticated":
		return true, o.choice(&p.Unauthenticated, unauthenticatedAuto, unauthenticated401, unauthenticatedLogin, unauthenticatedPass)
	case o.name == "csrf":
		return true, o.choice(&p.CSRF, csrfAuto, csrfStrict, csrfOff)
	case o.name == "require":
		return true, p.unmarshalRule(o)
	case o.name == "activity":
		return true, o.choice(&p.Activity, "on", "off")
	case o.name == "accept_bearer":
		p.AcceptBearer = true
		return true, o.flag()
	case o.name == "token" && p.proxy:
		return true, o.choice(&p.Token, tokenUser, tokenNone)
	case o.name == "resource" && p.proxy:
		return true, o.text(&p.Resource)
	case o.name == "scope" && p.proxy:
		return true, o.list(&p.Scope)
	case o.name == "exchange" && p.proxy:
		p.Exchange = &ExchangeOptions{}
		return true, o.nested(p.Exchange.unmarshalOption)
	case o.name == "step_up" && p.proxy:
		p.StepUp = true
		return true, o.flag()
	case o.name == "dpop" && p.proxy:
		p.DPoP = true
		return true, o.flag()
	case o.name == "cache" && p.proxy:
		return true, o.choice(&p.Cache, cachePrivate, cacheUpstream)
	}
	return false, nil
}

// MarshalJSON writes what the Caddyfile says. A bff_proxy that says nothing of
// the token relays with the user's, which is said in its JSON, since the default
// there is another one.
func (p *Protect) MarshalJSON() ([]byte, error) {
	type plain Protect
	out := plain(*p)
	if p.proxy {
		setDefault(&out.Token, tokenUser)
	}
	return json.Marshal(out)
}

// Provision sets defaults and checks what was written.
func (p *Protect) Provision(ctx caddy.Context) error {
	setDefault(&p.Unauthenticated, unauthenticatedAuto)
	setDefault(&p.CSRF, csrfAuto)
	setDefault(&p.Activity, "on")
	setDefault(&p.Cache, cachePrivate)
	for _, o := range []struct {
		name, value string
		allowed     []string
	}{
		{"unauthenticated", p.Unauthenticated, []string{unauthenticatedAuto, unauthenticated401, unauthenticatedLogin, unauthenticatedPass}},
		{"csrf", p.CSRF, []string{csrfAuto, csrfStrict, csrfOff}},
		{"activity", p.Activity, []string{"on", "off"}},
		{"token", p.Token, []string{"", tokenUser, tokenNone}},
		{"cache", p.Cache, []string{cachePrivate, cacheUpstream}},
	} {
		if !slices.Contains(o.allowed, o.value) {
			return fmt.Errorf("%s is %q, should be one of: %s", o.name, o.value, strings.TrimPrefix(strings.Join(o.allowed, ", "), ", "))
		}
	}
	for _, rule := range p.Require {
		if err := rule.check(); err != nil {
			return err
		}
	}
	if err := p.replacePlaceholders(); err != nil {
		return err
	}
	if err := errors.Join(p.checkPurpose(), p.checkDPoP()); err != nil {
		return err
	}
	return checkPlacements(ctx)
}

// errNoBFF: nothing on this request's way makes sessions available.
var errNoBFF = errors.New("bff_protect and bff_proxy need a bff that handles the same request before them")

// ServeHTTP lets the request pass, or answers it.
func (p *Protect) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	hd, ok := handleFrom(r.Context())
	if !ok {
		return caddyhttp.Error(http.StatusInternalServerError, errNoBFF)
	}
	if documentRequest(r) {
		if returnTo, err := hd.bff.returnURLs.Parse(hd.url.RequestURI()); err == nil {
			hd.pageURL = returnTo
		}
	}
	if preflight(r) {
		if hd.siteErr == nil && hd.from.servePreflight(w, r) {
			hd.result = resultPreflight
			return nil
		}
		return hd.fail(w, r, &httpError{code: codeCSRFRejected, err: errors.New("preflight of an origin that is not trusted")})
	}
	if hd.bearerOf = nil; p.AcceptBearer {
		hd.bearerOf = p
	}
	s, b, err := p.admit(hd, r)
	switch {
	case errors.Is(err, errReload):
		return hd.writeReload(w)
	case errors.Is(err, errSendToLogin):
		hd.result = resultLogin
		return hd.redirect(w, r, http.StatusFound, hd.loginURL(hd.pageURL))
	case err != nil:
		return hd.fail(w, r, err)
	}
	hd.from.corsHeaders(w.Header(), r)
	p.privateAnswer(w.Header())
	stripUpgrade(r)
	hd.result = resultAnonymous
	switch {
	case s != nil:
		hd.result = resultSession
	case b != nil:
		hd.result = resultBearer
		hd.user.session.Store(&identity{bearer: b})
	}
	if s != nil && p.Activity == "on" {
		s.Touch(r.Context())
	}
	return next.ServeHTTP(w, r.WithContext(upstream.WithGrant(r.Context(), p.grant(hd, w, r, s, b))))
}

// privateAnswer keeps shared caches from showing one user's page to another, and
// makes the browser ask again, so that it shows nothing of a session that is
// over. What the site's own `header` says stays. Answers of a resource server
// are seen to by the transport.
func (p *Protect) privateAnswer(h http.Header) {
	if p.Token != "" || p.Cache == cacheUpstream {
		return
	}
	addVary(h, "Cookie")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
}

// stripUpgrade leaves no protocol to change to but WebSocket: a tunnel past
// every check is what others are for (h2c smuggling).
func stripUpgrade(r *http.Request) {
	switch {
	case r.Header["Upgrade"] == nil:
	case webSocket(r):
		r.Header["Upgrade"] = []string{"websocket"}
	default:
		delete(r.Header, "Upgrade")
		delete(r.Header, "Http2-Settings")
	}
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Protect)(nil)
	_ caddyhttp.MiddlewareHandler = (*Protect)(nil)
	_ caddyfile.Unmarshaler       = (*Protect)(nil)
)
