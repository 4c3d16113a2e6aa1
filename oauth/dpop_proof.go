// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// dpopBackDate is how far the iat of a proof lies in the past, for servers whose
// clock is a little behind ours and that take nothing from the future.
const dpopBackDate = 2 * time.Second

// dpopProof is what a proof is about (RFC 9449 section 4.2).
type dpopProof struct {
	method      string
	uri         string // without query and fragment
	accessToken Secret // "" where none goes along
}

// prove makes a proof for one try of a request to a server: it is never used
// again, be it for a repetition of the same request.
func (k *DPoPKey) prove(p dpopProof, to dpopServer) (Secret, error) {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	claims := map[string]any{
		"jti": base64.RawURLEncoding.EncodeToString(id[:]),
		"htm": p.method,
		"htu": p.uri,
		"iat": time.Now().Add(to.ahead - dpopBackDate).Unix(),
	}
	if p.accessToken != "" {
		sum := sha256.Sum256([]byte(p.accessToken.Reveal()))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if to.nonce != "" {
		claims["nonce"] = to.nonce
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	proof, err := signInput(algorithms[dpopAlg], k.private, k.header+"."+base64.RawURLEncoding.EncodeToString(payload))
	if err != nil {
		return "", fmt.Errorf("making a DPoP proof: %w", err)
	}
	return proof, nil
}

// proofURI is the htu of a request: its URI without query and fragment.
func proofURI(u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return origin(u) + path
}

// addProof puts a proof for one of the authorization server's endpoints into the
// header of a request for it. Without a key there is none.
func (c *Client) addProof(header http.Header, key *DPoPKey, method, endpoint string) error {
	if key == nil {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	proof, err := key.prove(dpopProof{method: method, uri: proofURI(u)}, c.authorizationServers.of(origin(u)))
	if err != nil {
		return err
	}
	header.Set("DPoP", proof.Reveal())
	return nil
}

// ProveTo makes the value of the DPoP field for one try of a request to a resource
// server, with an access token bound to the key (RFC 9449 section 7). server is any
// name for who answers there: servers with different names know nothing of each
// other's nonces. Where a client can make up part of it, that stands behind a space:
// what it has others forgotten is of the same first word. uri is the one that the server sees, without query and fragment.
func (c *Client) ProveTo(server string, key *DPoPKey, method, uri string, accessToken Secret) (Secret, error) {
	return key.prove(dpopProof{method: method, uri: uri, accessToken: accessToken}, c.resourceServers.of(server))
}

// ResourceAnswered takes the nonce and the time that a resource server gives with
// an answer, be it a refusal or not (RFC 9449 section 8.2). sent is when it was
// asked.
func (c *Client) ResourceAnswered(server string, header http.Header, sent time.Time) {
	c.resourceServers.answered(server, header, sent, time.Now())
}

// DPoP says whether tokens of a login are to be bound to a key, by [Config].DPoP.
func (c *Client) DPoP() bool { return c.cfg.DPoP }
