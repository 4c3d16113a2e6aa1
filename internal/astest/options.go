// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/x509"
	"maps"
	"net/url"
	"slices"
	"time"
)

// The endpoints, as named in Script, Requests, Count and Options.Latency.
const (
	Metadata   = "metadata"    // both well-known locations
	Authorize  = "authorize"   // authorization endpoint
	Token      = "token"       // token endpoint
	JWKS       = "jwks"        // JWK Set document
	Revoke     = "revoke"      // revocation endpoint
	EndSession = "end_session" // end-session endpoint
	PAR        = "par"         // pushed authorization request endpoint
	Introspect = "introspect"  // introspection endpoint
	UserInfo   = "userinfo"    // UserInfo endpoint
)

// Rotation is what the token endpoint does with a refresh token it accepts.
type Rotation string

// The rotation policies.
const (
	// RotateNone grants no refresh tokens at all.
	RotateNone Rotation = "none"
	// RotateSame keeps one refresh token valid and does not return another.
	RotateSame Rotation = "same"
	// RotateStrict returns a new one each time; a used one that comes again
	// revokes the whole family (RFC 9700 section 4.14.2), access tokens included.
	RotateStrict Rotation = "strict"
	// RotateGrace is RotateStrict, but for Options.Grace after its first use the
	// old one yields the same successor again.
	RotateGrace Rotation = "grace"
)

// Options are the lasting settings of a Server. The zero value is a usable
// server. Functions are called with the server's lock held: they must not call
// methods of the Server.
type Options struct {
	// Host of the issuer of a server that is not started. [as.test]
	Host string
	// Path of the issuer, "" or "/tenant". Fixed once New has returned, like Host.
	Path string

	ClientID     string // [app]
	ClientSecret string // [secret]
	PublicClient bool   // the client authenticates with "none"
	// AuthMethod demanded at token and revocation endpoint. [any that needs no TLS]
	AuthMethod string
	// ClientKeys returns the client's JWK Set, as registered or as jwks_uri gives
	// it, with x5c where a self-signed certificate is registered.
	ClientKeys func() []byte
	// AssertionAlgs are the accepted algorithms of client assertions. [any]
	AssertionAlgs []string
	// AssertionAudience is the aud that client assertions need. [the issuer]
	AssertionAudience string
	// AssertionType is the typ that they need, "-" for none at all.
	// [client-authentication+jwt]
	AssertionType string
	// ClientRoots and ClientSubject are those of tls_client_auth.
	ClientRoots   *x509.CertPool
	ClientSubject string
	// MTLSAliases: metadata has mtls_endpoint_aliases, at another port, and clients
	// have to use them. With StartTLS, and fixed once that has returned.
	MTLSAliases bool
	// NoCertificateRequest: with StartTLS, no client is asked for a certificate.
	NoCertificateRequest bool
	// BindTokens: access tokens are bound to the client's certificate.
	BindTokens bool

	// DPoP: proofs (RFC 9449) are understood, and what is got with one is bound to its
	// key, refresh tokens too.
	DPoP bool
	// RequireDPoP: token requests without a proof are refused.
	RequireDPoP bool
	// ClockAhead is how far the clock of answers and proofs is ahead of the real one.
	ClockAhead time.Duration

	// User is the sub of whoever "signs in" at the authorization endpoint. [alice]
	User string
	// ACRs are the levels of authentication that there are, the usual one first: the
	// first of acr_values that is among them becomes the acr. [no acr]
	ACRs []string
	// SingleSignOn: whoever signs in again has the sid of before, and has authenticated
	// when they did before, unless the request wants another acr or a later time. (By
	// default every sign-in is a new authentication.)
	SingleSignOn bool
	// Claims are added to each ID token. A nil value removes a claim.
	Claims map[string]any
	// Scope granted instead of what was asked for. [what was asked for]
	Scope string
	// PAR: metadata has an endpoint for pushed authorization requests (RFC 9126).
	PAR bool
	// RequirePAR: it has, and no other requests are taken.
	RequirePAR bool
	// RequireSignedRequest: requests without a signed request object (RFC 9101) are
	// refused, and metadata says so.
	RequireSignedRequest bool
	// RequestURILifetime is how long a pushed request waits for the browser. [1m]
	RequestURILifetime time.Duration
	// JARM: authorization responses are signed for who asks for it (response modes jwt,
	// query.jwt and form_post.jwt).
	JARM bool
	// AuthorizeError is answered by the authorization endpoint, by redirect, in
	// place of a code: "access_denied", "login_required".
	AuthorizeError string
	// NoIssParameter: metadata does not announce iss in authorization responses
	// (RFC 9207), and none is sent.
	NoIssParameter bool
	// OmitIss: no iss is sent although metadata announces it.
	OmitIss bool
	// WrongIss is sent as iss in authorization responses.
	WrongIss string

	AccessTokenLifetime  time.Duration // [5m]
	IDTokenLifetime      time.Duration // [5m]
	CodeLifetime         time.Duration // [1m]
	RefreshTokenLifetime time.Duration // [none: never expires]

	// AccessTokenType is the typ of JWT access tokens: "at+jwt", "JWT", "-" for no
	// typ at all, or "opaque" for tokens that are no JWTs. [at+jwt]
	AccessTokenType string
	// Audience of access tokens that name no resource. [https://api.test]
	Audience string
	// Resources are the resource indicators and audiences that are known; asking
	// for any other is answered invalid_target. [all]
	Resources []string
	// NoTokenExchange: token exchange (RFC 8693) is not for this client.
	NoTokenExchange bool
	// Algorithm of the first signing key: "ES256", "RS256", "EdDSA", ... [ES256]
	Algorithm string

	Rotation Rotation      // [RotateStrict]
	Grace    time.Duration // with RotateGrace [10s]
	// RevokeOnRefresh: a refresh revokes the grant's older access tokens.
	RevokeOnRefresh bool
	// NoRefreshedIDToken: refresh answers carry no ID token.
	NoRefreshedIDToken bool

	// WellKnown is where metadata is served: "oidc", "oauth", "both" or "none". [both]
	WellKnown string

	// MetadataDoc, JWKSDoc, TokenResponse, IDTokenHeader, IDTokenClaims,
	// AccessTokenClaims and ResponseJWT, for signed authorization responses, change what is about to be sent.
	MetadataDoc       func(doc map[string]any)
	JWKSDoc           func(doc map[string]any)
	TokenResponse     func(grantType string, body map[string]any)
	IDTokenHeader     func(header map[string]any)
	IDTokenClaims     func(grantType string, claims map[string]any)
	AccessTokenClaims func(header, claims map[string]any)
	ResponseJWT       func(header, claims map[string]any)
	// AuthorizationResponse changes the parameters that the browser is sent back with,
	// signed ones after the signature.
	AuthorizationResponse func(params url.Values)

	// SignedIntrospection: whoever accepts a signed introspection answer gets one.
	SignedIntrospection bool
	// IntrospectionClaims changes the members of an introspection answer,
	// IntrospectionJWT the header and the outer claims of a signed one.
	IntrospectionClaims func(token string, claims map[string]any)
	IntrospectionJWT    func(header, claims map[string]any)
	// SignedUserInfo: the UserInfo endpoint answers with a JWT.
	SignedUserInfo bool
	// UserInfoClaims changes what the UserInfo endpoint answers, UserInfoJWT the
	// header and the claims of a signed answer.
	UserInfoClaims func(claims map[string]any)
	UserInfoJWT    func(header, claims map[string]any)

	// TokenAnswer gives what a token request is answered in place of what is usual,
	// unless an answer is queued; nil: as usual.
	TokenAnswer func(Request) *Answer

	// Latency of each endpoint, before the request is acted upon.
	Latency map[string]time.Duration
}

// withDefaults returns o with its defaults filled in.
func (o Options) withDefaults() Options {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	dur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Host, "as.test")
	def(&o.ClientID, "app")
	def(&o.ClientSecret, "secret")
	def(&o.User, "alice")
	def(&o.AccessTokenType, "at+jwt")
	def(&o.Audience, "https://api.test")
	def(&o.Algorithm, "ES256")
	def(&o.WellKnown, "both")
	def((*string)(&o.Rotation), string(RotateStrict))
	dur(&o.AccessTokenLifetime, 5*time.Minute)
	dur(&o.IDTokenLifetime, 5*time.Minute)
	dur(&o.CodeLifetime, time.Minute)
	dur(&o.Grace, 10*time.Second)
	dur(&o.RequestURILifetime, time.Minute)
	o.Latency = maps.Clone(o.Latency)
	if o.Latency == nil {
		o.Latency = map[string]time.Duration{}
	}
	return o
}

// metadata returns the authorization server metadata for issuer; mutual begins the
// endpoints for mutual TLS.
func (o *Options) metadata(issuer, mutual string, algs []string) map[string]any {
	doc := map[string]any{
		"issuer":                   issuer,
		"authorization_endpoint":   issuer + "/authorize",
		"token_endpoint":           issuer + "/token",
		"jwks_uri":                 issuer + "/jwks",
		"revocation_endpoint":      issuer + "/revoke",
		"end_session_endpoint":     issuer + "/logout",
		"introspection_endpoint":   issuer + "/introspect",
		"userinfo_endpoint":        issuer + "/userinfo",
		"scopes_supported":         []string{"openid", "profile", "email", "offline_access"},
		"response_types_supported": []string{"code"},
		"response_modes_supported": []string{"query", "form_post"},
		"grant_types_supported":    []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_methods_supported": []string{
			"client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth", "none",
		},
		"code_challenge_methods_supported":      []string{"S256"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": algs,
		"backchannel_logout_supported":          true,
		"backchannel_logout_session_supported":  true,
		"frontchannel_logout_supported":         true,
		"frontchannel_logout_session_supported": true,
	}
	if !o.NoIssParameter {
		doc["authorization_response_iss_parameter_supported"] = true
	}
	if o.SignedIntrospection {
		doc["introspection_signing_alg_values_supported"] = algs
	}
	aliases := map[string]any{
		"token_endpoint": mutual + "/token", "revocation_endpoint": mutual + "/revoke",
		"introspection_endpoint": mutual + "/introspect", "userinfo_endpoint": mutual + "/userinfo",
	}
	if o.PAR || o.RequirePAR {
		doc["pushed_authorization_request_endpoint"] = issuer + "/par"
		aliases["pushed_authorization_request_endpoint"] = mutual + "/par"
	}
	if o.RequirePAR {
		doc["require_pushed_authorization_requests"] = true
	}
	if o.RequireSignedRequest {
		doc["require_signed_request_object"] = true
	}
	if o.DPoP {
		doc["dpop_signing_alg_values_supported"] = []string{"RS256", "ES256"}
	}
	if o.JARM {
		doc["response_modes_supported"] = []string{"query", "form_post", "jwt", "query.jwt", "form_post.jwt"}
		doc["authorization_signing_alg_values_supported"] = algs
	}
	if mutual != "" {
		doc["mtls_endpoint_aliases"] = aliases
	}
	if o.MetadataDoc != nil {
		o.MetadataDoc(doc)
	}
	return doc
}

// query appends parameters to a URL that may have a query already.
func query(base string, params url.Values) string {
	sep := "?"
	if slices.Contains([]byte(base), '?') {
		sep = "&"
	}
	return base + sep + params.Encode()
}
