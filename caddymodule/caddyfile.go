// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("bff", parseBFF)
	// Before anything that rewrites the path: the endpoints are where the
	// browser says, and the authorization server knows them by that path.
	httpcaddyfile.RegisterDirectiveOrder("bff", httpcaddyfile.Before, "method")
}

func parseBFF(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	bff [<matcher>] {
//	    issuer              <url>
//	    tenants             <id...>|*
//	    metadata {
//	        authorization_endpoint                <url>
//	        token_endpoint                        <url>
//	        jwks_uri                              <url>
//	        revocation_endpoint                   <url>
//	        introspection_endpoint                <url>
//	        pushed_authorization_request_endpoint <url>
//	        end_session_endpoint                  <url>
//	        userinfo_endpoint                     <url>
//	        scopes_supported                           <scope...>
//	        id_token_signing_alg_values_supported      <algorithm...>
//	        authorization_signing_alg_values_supported <algorithm...>
//	        introspection_signing_alg_values_supported <algorithm...>
//	        authorization_response_iss_parameter_supported
//	    }
//	    client_id           <id>
//	    client_secret       <secret>
//	    client_auth         <method> {
//	        key_file    <pem or jwk file>
//	        key_id      <id>
//	        alg         <algorithm>
//	        audience    issuer|token_endpoint
//	        typ         client-authentication+jwt|JWT|none
//	        certificate <pem file>
//	        private_key <pem file>
//	    }
//	    name                <id>
//	    scope               <scope...>
//	    resource            <uri...>
//	    authorization_param <name> <value>
//	    login_param         <name...>
//	    userinfo            off|on
//	    response_mode       query|form_post|jwt|query.jwt|form_post.jwt
//	    par                 auto|required|off
//	    request_object      auto|required|off
//	    dpop                off|on
//	    trust_ca            <pem file...>
//	    http_timeout        <duration>
//	    public_origin       <origin>
//	    base_path           <path>
//	    return_origins      <origin...>
//	    trusted_origins     <origin...>
//	    claims              <name...>
//	    cookie {
//	        same_site strict|lax
//	    }
//	    session {
//	        idle_timeout <duration>
//	        lifetime     <duration>
//	    }
//	    refresh {
//	        before   <duration>
//	        on       invalid_token|any_401
//	        rotation auto|none|strict|grace <duration>
//	    }
//	    access_token {
//	        validate auto|jwt|introspection|expiry
//	        audience <audience...>
//	        leeway   <duration>
//	    }
//	    logout {
//	        return_to     <path>
//	        revoke        on|off
//	        backchannel   on|off
//	        frontchannel  on|off
//	        id_token_hint auto|on|off
//	    }
//	    csrf_header <name> <value>
//	    error_pages builtin|caddy
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	o := newOptions(d)
	if err := o.directive(h.unmarshalOption); err != nil {
		return err
	}
	return o.locate(h.checkWritten())
}

// checkWritten finds, before anything runs, what Provision would find in the
// values that hold no placeholder.
func (h *Handler) checkWritten() error {
	if err := h.checkRequired(); err != nil {
		return err
	}
	if h.ClientSecret != "" {
		if err := checkSecretText("client_secret", h.ClientSecret); err != nil {
			return err
		}
	}
	if h.ClientAuth != nil {
		if err := h.ClientAuth.checkWritten(); err != nil {
			return err
		}
	}
	written, err := json.Marshal(h)
	if err != nil {
		return err
	}
	var loaded Handler // as it will be, so that defaults do not get into what was written
	if err := json.Unmarshal(written, &loaded); err != nil {
		return err
	}
	loaded.setDefaults()
	loaded.forgetUnknown()
	return loaded.check()
}

func (h *Handler) unmarshalOption(o *options) error {
	switch o.name {
	case "issuer":
		return o.text(&h.Issuer)
	case "tenants":
		return o.list(&h.Tenants)
	case "metadata":
		h.Metadata = &MetadataOptions{}
		return o.nested(h.Metadata.unmarshalOption)
	case "client_id":
		return o.text(&h.ClientID)
	case "client_secret":
		return o.secret(&h.ClientSecret)
	case "client_auth":
		h.ClientAuth = &ClientAuthOptions{}
		return o.textAndBlock(&h.ClientAuth.Method, h.ClientAuth.unmarshalOption)
	case "name":
		return o.text(&h.Name)
	case "scope":
		return o.list(&h.Scope)
	case "resource":
		return o.list(&h.Resource)
	case "authorization_param":
		return h.unmarshalAuthorizationParam(o)
	case "login_param":
		return o.list(&h.LoginParam)
	case "userinfo":
		return o.text(&h.UserInfo)
	case "response_mode":
		return o.text(&h.ResponseMode)
	case "par":
		return o.text(&h.PAR)
	case "request_object":
		return o.text(&h.RequestObject)
	case "dpop":
		return o.text(&h.DPoP)
	case "trust_ca":
		return o.list(&h.TrustCA)
	case "http_timeout":
		return o.duration(&h.HTTPTimeout)
	case "public_origin":
		return o.text(&h.PublicOrigin)
	case "base_path":
		return o.text(&h.BasePath)
	case "return_origins":
		return o.list(&h.ReturnOrigins)
	case "trusted_origins":
		return o.list(&h.TrustedOrigins)
	case "claims":
		return o.list(&h.Claims)
	case "cookie":
		h.Cookie = &CookieOptions{}
		return o.nested(h.Cookie.unmarshalOption)
	case "session":
		h.Session = &SessionOptions{}
		return o.nested(h.Session.unmarshalOption)
	case "refresh":
		h.Refresh = &RefreshOptions{}
		return o.nested(h.Refresh.unmarshalOption)
	case "access_token":
		h.AccessToken = &AccessTokenOptions{}
		return o.nested(h.AccessToken.unmarshalOption)
	case "logout":
		h.Logout = &LogoutOptions{}
		return o.nested(h.Logout.unmarshalOption)
	case "csrf_header":
		return h.unmarshalCSRFHeader(o)
	case "error_pages":
		return o.text(&h.ErrorPages)
	}
	return o.unrecognized()
}

func (h *Handler) unmarshalAuthorizationParam(o *options) error {
	args := o.d.RemainingArgs()
	if len(args) != 2 {
		return o.d.Errf("%s needs a name and a value", o.path)
	}
	name, value := args[0], args[1]
	if h.AuthorizationParam == nil {
		h.AuthorizationParam = make(map[string][]string)
	}
	h.AuthorizationParam[name] = append(h.AuthorizationParam[name], value)
	if err := h.checkAuthorizationParam(name); err != nil {
		return o.d.WrapErr(err) // here, as every line is an option of its own
	}
	return nil
}

func (h *Handler) unmarshalCSRFHeader(o *options) error {
	if err := o.once(); err != nil {
		return err
	}
	args := o.d.RemainingArgs()
	if len(args) != 2 {
		return o.d.Errf("%s needs a name and a value", o.path)
	}
	h.CSRFHeader = &CSRFHeader{Name: args[0], Value: args[1]}
	return nil
}

func (c *CookieOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "same_site":
		return o.text(&c.SameSite)
	}
	return o.unrecognized()
}

func (s *SessionOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "idle_timeout":
		return o.duration(&s.IdleTimeout)
	case "lifetime":
		return o.duration(&s.Lifetime)
	case "max_per_user":
		return o.count(&s.MaxPerUser)
	}
	return o.unrecognized()
}

func (r *RefreshOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "before":
		return o.duration(&r.Before)
	case "on":
		return o.text(&r.On)
	case "rotation":
		return r.unmarshalRotation(o)
	}
	return o.unrecognized()
}

func (r *RefreshOptions) unmarshalRotation(o *options) error {
	if err := o.once(); err != nil {
		return err
	}
	args := o.d.RemainingArgs()
	switch len(args) {
	case 0:
		return o.d.Errf("%s needs a value", o.path)
	case 1:
	case 2:
		if err := o.parseDuration(&r.RotationGrace, args[1]); err != nil {
			return err
		}
	default:
		return o.d.Errf("unexpected argument '%s' of %s", args[2], o.path)
	}
	r.Rotation = args[0]
	return nil
}

func (a *AccessTokenOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "validate":
		return o.text(&a.Validate)
	case "audience":
		return o.list(&a.Audience)
	case "leeway":
		return o.duration(&a.Leeway)
	}
	return o.unrecognized()
}

func (l *LogoutOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "return_to":
		return o.text(&l.ReturnTo)
	case "revoke":
		return o.text(&l.Revoke)
	case "backchannel":
		return o.text(&l.Backchannel)
	case "frontchannel":
		return o.text(&l.Frontchannel)
	case "id_token_hint":
		return o.text(&l.IDTokenHint)
	}
	return o.unrecognized()
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Handler)(nil)
