// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"
)

const maxUserInfo = 256 << 10

// UserInfo asks the UserInfo endpoint (OpenID Connect Core section 5.3) for the
// claims of the end user whose ID token has the given sub; an answer about anybody
// else is of no use (section 5.3.2). The answer is JSON or a JWT of the issuer for
// this client. Claims with the value null are left out; numbers are json.Number.
//
// Errors: [ErrUnsupported] when the metadata names no such endpoint,
// [ErrUnusable], [ErrKeysUnavailable], or an [*Error].
func (c *Client) UserInfo(ctx context.Context, accessToken Secret, subject string) (map[string]any, error) {
	return c.BoundUserInfo(ctx, accessToken, nil, subject)
}

// BoundUserInfo is [Client.UserInfo] with an access token that is bound to a key.
func (c *Client) BoundUserInfo(ctx context.Context, accessToken Secret, key *DPoPKey, subject string) (map[string]any, error) {
	if accessToken == "" || subject == "" {
		return nil, errors.New("oauth: UserInfo without an access token or a subject")
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, notSent(err)
	}
	if md.UserInfoEndpoint == "" {
		return nil, fmt.Errorf("UserInfo: %w", ErrUnsupported)
	}
	a, err := c.getUserInfo(ctx, md.UserInfoEndpoint, accessToken, key)
	if err != nil {
		return nil, err
	}
	cl, err := c.readUserInfo(ctx, a)
	if err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: UserInfo: %w", ErrUnusable, err)
	}
	if sub, err := cl.text("sub"); err != nil || sub != subject {
		return nil, fmt.Errorf("%w: UserInfo: sub is not that of the ID token", ErrUnusable)
	}
	return cl.members, nil
}

func (c *Client) getUserInfo(ctx context.Context, endpoint string, accessToken Secret, key *DPoPKey) (*answer, error) {
	a, err := c.sendUserInfo(ctx, endpoint, accessToken, key)
	if err == nil && key != nil && a.status == http.StatusUnauthorized && asksForProof(a.header) {
		a, err = c.sendUserInfo(ctx, endpoint, accessToken, key)
	}
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		// Refused or not: it is no statement about this client or the grant.
		e := &Error{Status: a.status, RetryAfter: retryAfter(a.header, a.sent), Class: ClassOutage}
		if !unwell(a.status) {
			e.Class, e.cause = ClassRefused, fmt.Errorf("%w: UserInfo: no claims", ErrUnusable)
		}
		return nil, e
	}
	return a, nil
}

// asksForProof reports whether a 401 asks for another proof of the same token: for one
// with the nonce that comes along, or for one that can be taken, which one by the clock
// of that answer may be (RFC 9449 sections 7.1 and 9).
func asksForProof(h http.Header) bool {
	challenges := strings.Join(h["Www-Authenticate"], ",")
	return strings.Contains(challenges, "use_dpop_nonce") && dpopNonce(h) != "" || strings.Contains(challenges, "invalid_dpop_proof")
}

// sendUserInfo sends one request, with a proof where there is a key (RFC 9449 section
// 7). The endpoint is a resource server, with nonces of its own.
func (c *Client) sendUserInfo(ctx context.Context, endpoint string, accessToken Secret, key *DPoPKey) (*answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return nil, &Error{Class: ClassConfiguration, cause: err}
	}
	r.Header.Set("Authorization", "Bearer "+accessToken.Reveal())
	r.Header.Set("Accept", "application/json, application/jwt")
	server := origin(r.URL)
	if key != nil {
		proof, err := c.ProveTo(server, key, http.MethodGet, proofURI(r.URL), accessToken)
		if err != nil {
			return nil, &Error{Class: ClassConfiguration, cause: err}
		}
		r.Header.Set("Authorization", "DPoP "+accessToken.Reveal())
		r.Header.Set("DPoP", proof.Reveal())
	}
	client := c.http
	if c.certified != nil && strings.HasPrefix(endpoint, "https:") {
		client = c.certified.client // the token may be bound to the certificate
	}
	a, err := c.send(client, r, maxUserInfo)
	if e, ok := errors.AsType[*Error](err); ok && e.Class == ClassAmbiguous {
		e.Class = ClassOutage // a GET changes nothing, so nothing is in doubt
	}
	if err != nil {
		return nil, err
	}
	c.resourceServers.answered(server, a.header, a.sent, a.received)
	return a, nil
}

// readUserInfo reads the answer (section 5.3.2).
func (c *Client) readUserInfo(ctx context.Context, a *answer) (claims, error) {
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	switch mediaType {
	case "application/json":
		return parseClaims(a.body)
	case "application/jwt":
	default:
		return claims{}, errors.New("neither JSON nor a JWT")
	}
	s, err := parseJWS(string(a.body))
	if err != nil {
		return claims{}, err
	}
	if s.typ != "" && !s.isType("jwt") {
		return claims{}, errors.New("it is another kind of token")
	}
	md, err := c.Metadata(ctx)
	if err == nil {
		err = s.checkAlg(md.UserInfoSigningAlgValuesSupported)
	}
	if err != nil {
		return claims{}, err
	}
	if _, err := c.keys.verify(ctx, s, 0); err != nil {
		return claims{}, err
	}
	cl, err := parseClaims(s.payload)
	if err != nil {
		return claims{}, err
	}
	// ID tokens and logout tokens, of servers whose typ does not tell.
	for _, name := range []string{"nonce", "at_hash", "c_hash", "events"} {
		if cl.has(name) {
			return claims{}, errors.New("it is another kind of token")
		}
	}
	// Both are required of a signed answer.
	if iss, err := cl.text("iss"); err != nil || !c.AcceptsIssuer(iss) {
		return claims{}, errors.New("iss is not the issuer")
	}
	if found, err := cl.hasAudience([]string{c.cfg.ClientID}); err != nil || !found {
		return claims{}, errors.New("aud is not the client")
	}
	now := time.Now()
	if _, _, err := cl.notYet(now, c.cfg.Leeway); err != nil {
		return claims{}, err
	}
	expiry, err := cl.date("exp")
	if err == nil && !expiry.IsZero() && !now.Before(expiry.Add(c.cfg.Leeway)) {
		err = errors.New("expired")
	}
	return cl, err
}

// IDTokenClaims reads the claims of an ID token that was verified when it came.
func IDTokenClaims(verified Secret) (map[string]any, error) {
	s, err := parseJWS(verified.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	cl, err := parseClaims(s.payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	return cl.members, nil
}
