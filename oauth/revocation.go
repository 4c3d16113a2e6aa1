// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

// Revoke revokes a token (RFC 7009 section 2). hint is "refresh_token",
// "access_token" or "". A token that the server does not know, or a kind of token
// that it does not revoke, is no error. Errors: [ErrUnsupported] when the
// metadata names no revocation endpoint; an [*Error], with RetryAfter when the
// server says when to try again, and of ClassNotSent when the metadata could not be
// had.
func (c *Client) Revoke(ctx context.Context, token Secret, hint string) error {
	if token == "" {
		return errors.New("oauth: revocation without a token")
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	md, err := c.Metadata(ctx)
	if err != nil {
		return notSent(err)
	}
	if md.RevocationEndpoint == "" {
		return ErrUnsupported
	}
	form := url.Values{"token": {token.Reveal()}}
	if hint != "" {
		form.Set("token_type_hint", hint)
	}
	a, err := c.post(ctx, md.RevocationEndpoint, form, maxTokenResponse)
	if err != nil {
		return err
	}
	if a.status == http.StatusOK || a.status == http.StatusNoContent {
		return nil
	}
	if e := answerError(a); e.Code != "unsupported_token_type" {
		return e
	}
	return nil
}
