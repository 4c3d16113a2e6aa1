// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
)

// PARMode says when authorization requests are pushed: sent to the authorization
// server by the authenticated client, so that the browser carries a reference alone
// (RFC 9126).
type PARMode string

// The modes.
const (
	// PARAuto pushes where the metadata has the endpoint. Should the endpoint not be
	// there after all, or not for this client, and should the metadata not demand it,
	// the browser carries the request. No other refusal and no outage leads there.
	PARAuto PARMode = "auto"
	// PARRequired makes no other authorization request.
	PARRequired PARMode = "required"
	// PAROff never pushes.
	PAROff PARMode = "off"
)

const (
	maxPushedResponse = 64 << 10
	maxRequestURI     = 2 << 10
)

// push sends the parameters of an authorization request to the authorization
// server, and returns the request_uri that stands for them (RFC 9126 section 2);
// "" where the browser is to carry them. A proof of the key goes along, which binds
// the code to it beside dpop_jkt (RFC 9449 section 10.1). again makes the parameters
// anew: what is sent a second time has another request object, as its jti has been seen.
func (c *Client) push(ctx context.Context, md *Metadata, params url.Values, key *DPoPKey, again func() (url.Values, error)) (Secret, error) {
	required := c.cfg.PAR == PARRequired || md.RequirePushedAuthorizationRequests
	switch {
	case c.cfg.PAR == PAROff:
		return "", nil
	case md.PushedAuthorizationRequestEndpoint == "" && required:
		return "", fmt.Errorf("%w: pushed authorization requests are required, and the metadata has no endpoint for them", ErrUnsupported)
	case md.PushedAuthorizationRequestEndpoint == "":
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	// The copy is for the client's credentials.
	a, err := c.postProved(ctx, md.PushedAuthorizationRequestEndpoint, maps.Clone(params), maxPushedResponse, key, again)
	if err != nil {
		return "", fmt.Errorf("pushing the authorization request: %w", err)
	}
	if a.status != http.StatusCreated {
		e := answerError(a)
		if e.Code == "invalid_request_object" && c.cfg.SigningKey != nil {
			c.cfg.SigningKey.rollover.hurry() // the server does not know the key (any more)
		}
		if !required && declinesPushing(e) {
			c.unpushed.Do(func() {
				c.log.Warn("authorization server has an endpoint for pushed authorization requests, but not for this client; the browser carries them",
					"issuer", c.cfg.Issuer, "endpoint", md.PushedAuthorizationRequestEndpoint, "error", e)
			})
			return "", nil
		}
		return "", fmt.Errorf("pushing the authorization request: %w", e)
	}
	requestURI, err := parsePushedResponse(a.body)
	if err != nil {
		return "", &Error{Status: a.status, Class: ClassOutage, cause: fmt.Errorf("%w: pushed authorization response: %w", ErrUnusable, err)}
	}
	return requestURI, nil
}

// declinesPushing says of an answer that there is no such endpoint, or none for this
// client. What is wrong with the request or the credentials, or with the server at
// the moment, is no reason to put the request into the hands of the browser.
func declinesPushing(e *Error) bool {
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return e.Code == ""
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return e.Code == "unauthorized_client"
	}
	return false
}

// parsePushedResponse reads a pushed authorization response (RFC 9126 section 2.2).
// Whoever knows the request_uri could start the login in place of the user, so it is
// a secret until the browser has it.
func parsePushedResponse(body []byte) (Secret, error) {
	o, err := parseObject(body, false)
	if err == nil {
		err = o.unique("request_uri", "expires_in")
	}
	if err != nil {
		return "", err
	}
	requestURI, err := o.text("request_uri")
	if err != nil {
		return "", err
	}
	u, err := url.Parse(requestURI)
	if err != nil || !u.IsAbs() || len(requestURI) > maxRequestURI || !visible(requestURI, false) {
		return "", errors.New("request_uri is missing or no URI")
	}
	if lifetime(o.members["expires_in"]) <= 0 {
		return "", errors.New("expires_in is missing or no number of seconds above zero")
	}
	return Secret(requestURI), nil
}
