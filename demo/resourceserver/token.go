// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

var (
	errTokenMissing = errors.New("no access token")
	errTokenInvalid = errors.New("access token invalid")
	errTokenRevoked = errors.New("access token revoked")
)

// token is what an access token says.
type token struct {
	id      string // jti
	subject string
	session string // sid
	expiry  time.Time
}

// verifier checks access tokens: signature by the issuer's JWK Set, issuer, audience and expiry without leeway.
type verifier struct {
	audience string
	jwt      *op.AccessTokenVerifier
}

func newVerifier(issuer, jwksURI, audience string) *verifier {
	keys := rp.NewRemoteKeySet(&http.Client{Timeout: 5 * time.Second}, jwksURI)
	return &verifier{audience: audience, jwt: op.NewAccessTokenVerifier(issuer, keys)}
}

// verify returns what the access token of the request says. Errors are errTokenMissing and errTokenInvalid.
func (v *verifier) verify(ctx context.Context, r *http.Request) (token, error) {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || raw == "" {
		return token{}, errTokenMissing
	}
	claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](ctx, raw, v.jwt)
	if err != nil {
		return token{}, errors.Join(errTokenInvalid, err)
	}
	if !slices.Contains(claims.GetAudience(), v.audience) || claims.JWTID == "" {
		return token{}, errTokenInvalid
	}
	session, _ := claims.Claims["sid"].(string)
	return token{id: claims.JWTID, subject: claims.Subject, session: session, expiry: claims.GetExpiration()}, nil
}
