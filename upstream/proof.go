// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// prover is an optional ability of a [TokenSource] whose access tokens may be bound
// to a key (RFC 9449).
type prover interface {
	// Bound reports whether the tokens of the source are bound. Then they go by the
	// scheme DPoP with a proof, and never as bearer tokens.
	Bound() bool

	// Proof makes the value of the DPoP field for one try of a request with a token.
	// server is a name for who answers; uri is the one that it sees, without query and
	// fragment.
	Proof(server, method, uri, token string) (string, error)

	// Answered is told of the header of every answer to a request with a proof, which
	// may bring a nonce, and of when the request was sent.
	Answered(server string, header http.Header, sent time.Time)
}

// prover gives what makes proofs for the tokens of the grant; nil where they are
// bearer tokens.
func (g *Grant) prover() prover {
	if p, ok := g.Source.(prover); ok && p.Bound() {
		return p
	}
	return nil
}

// Error codes of RFC 9449 sections 7.1 and 9.
const (
	errorUseNonce     = "use_dpop_nonce"
	errorInvalidProof = "invalid_dpop_proof"
)

// prove puts a new proof on a request that goes onto the wire with a token, and its
// scheme. No two tries of a request have the same proof. (The base transport may
// send a request once more by itself, if the connection turns out to be closed; a
// server that has seen the first one answers like for any proof that it does not
// take.)
func (g *Grant) prove(out *http.Request, token string) error {
	p := g.prover()
	if p == nil || token == "" {
		return nil
	}
	method := out.Method
	if method == "" {
		method = http.MethodGet
	}
	proof, err := p.Proof(serverOf(out), method, requestURI(out), token)
	if err != nil {
		return err
	}
	out.Header["Authorization"] = []string{"DPoP " + token}
	out.Header["Dpop"] = []string{proof}
	return nil
}

// send sends a request that prove has seen.
func (t *Transport) send(g *Grant, out *http.Request, hook *interim) (*http.Response, error) {
	sent := time.Now()
	resp, err := hook.roundTrip(t.base(), out)
	if p := g.prover(); p != nil && err == nil && out.Header["Dpop"] != nil {
		p.Answered(serverOf(out), resp.Header, sent)
	}
	return resp, err
}

// requestURI is the URI of a request as the resource server puts it together (RFC
// 9110 section 7.1), without its query: by the scheme of the connection, the Host
// field, and the path byte for byte.
func requestURI(out *http.Request) string {
	host := out.Host
	if host == "" {
		host = out.URL.Host
	}
	path, _, _ := strings.Cut(out.URL.RequestURI(), "?")
	if path == "*" {
		path = ""
	}
	return out.URL.Scheme + "://" + host + path
}

// serverOf names who answers: the virtual host at an address. What one of them has
// told is for nobody else.
func serverOf(out *http.Request) string { return address(out.URL) + " " + out.Host }

// address is where a request goes. With the PROXY protocol the host of its URL has
// the address of the client in front.
func address(u *url.URL) string {
	host := u.Host
	if _, server, ok := strings.Cut(host, "-%3E"); ok {
		host = server
	}
	return u.Scheme + "://" + host
}

// asksForProof reports whether a 401 with header h asks for another proof of the same
// token: for one with the nonce that comes along, or for one that can be taken.
func (g *Grant) asksForProof(h http.Header) bool {
	if g.prover() == nil {
		return false
	}
	for _, field := range h["Www-Authenticate"] {
		challenges, _ := parseChallenges(field)
		for i := range challenges {
			if !challenges[i].is("DPoP") {
				continue
			}
			switch code, _ := challenges[i].param("error"); code {
			case errorUseNonce:
				return headerLine(h, "Dpop-Nonce") != ""
			case errorInvalidProof:
				return true
			}
		}
	}
	return false
}

// proveAgain sends a request once more after first, the answer to out, if that asks
// for another proof: with the same token, as there is nothing wrong with it. It
// returns the request and the answer that count, and what came of it; "" if nothing
// was to be done. A request gets there once.
func (h *healing) proveAgain(out *http.Request, first *http.Response) (*http.Request, *http.Response, ReplayResult) {
	if h.proved || first.StatusCode != http.StatusUnauthorized || !h.grant.asksForProof(first.Header) {
		return out, first, ""
	}
	h.proved = true
	ctx, cancel := context.WithTimeout(h.request.Context(), h.healTimeout())
	defer cancel()
	keepAnswer(first, h.request.Method)
	if h.body != nil && !h.body.settle(ctx) {
		h.log(ctx, slog.LevelDebug, "upstream asked for another DPoP proof; request body is gone")
		return out, first, ReplayBodyGone
	}
	again, second, err := h.resend(h.refused)
	if err != nil {
		h.log(ctx, slog.LevelWarn, "replay with another DPoP proof failed; first answer stands", slog.Any("error", err))
		return out, first, ReplayFailed
	}
	_ = first.Body.Close()
	if second.StatusCode == http.StatusUnauthorized && h.grant.asksForProof(second.Header) {
		return again, second, ReplayRefused
	}
	return again, second, ReplayProved
}

// resend sends the request once more, with a token and, if that is bound, a new
// proof.
func (h *healing) resend(token string) (*http.Request, *http.Response, error) {
	again := h.grant.outgoing(h.request, token, h.hook)
	if err := h.grant.prove(again, token); err != nil {
		return nil, nil, err
	}
	if h.body != nil {
		h.body.attach(again, 2)
	}
	resp, err := h.send(h.grant, again, h.hook)
	return again, resp, err
}
