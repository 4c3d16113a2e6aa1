// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto"
	"crypto/hmac"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	clientAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxAssertionLife    = time.Minute
)

// authentication reads the client's credentials: RFC 6749 section 2.3.1, RFC 7523
// section 2.2. Whoever uses two methods uses none (RFC 6749 section 2.3).
func (rec *Request) authentication() {
	rec.ClientAuth = "none"
	rec.ClientID = rec.Form.Get("client_id")
	methods := 0
	if rec.Form.Has("client_secret") {
		methods++
		rec.ClientAuth = "client_secret_post"
		rec.ClientSecret = rec.Form.Get("client_secret")
	}
	if rec.Form.Has("client_assertion") || rec.Form.Has("client_assertion_type") {
		methods++
		rec.Assertion = rec.Form.Get("client_assertion")
		rec.ClientAuth = "private_key_jwt"
		if header, _, err := assertionParts(rec.Assertion); err == nil {
			if alg, _ := header["alg"].(string); strings.HasPrefix(alg, "HS") {
				rec.ClientAuth = "client_secret_jwt"
			}
		}
	}
	if header := rec.Header.Get("Authorization"); header != "" {
		methods++
		rec.ClientAuth = "client_secret_basic"
		encoded, _ := strings.CutPrefix(header, "Basic ")
		decoded, err := base64.StdEncoding.DecodeString(encoded)
		id, secret, found := strings.Cut(string(decoded), ":")
		if err == nil && found {
			rec.ClientID, _ = url.QueryUnescape(id)
			rec.ClientSecret, _ = url.QueryUnescape(secret)
		}
	}
	if methods > 1 {
		rec.ClientAuth = "both"
	}
}

// authenticate checks the client's credentials; nil means they are right.
func (s *Server) authenticate(rec *Request) *response {
	if rec.ClientAuth == "none" && rec.Certificate != nil && strings.HasSuffix(s.opts.AuthMethod, "tls_client_auth") {
		rec.ClientAuth = s.opts.AuthMethod
	}
	err := s.checkCredentials(rec)
	switch {
	case s.opts.AuthMethod != "" && s.opts.AuthMethod != rec.ClientAuth:
		err = fmt.Errorf("client authentication is %s", rec.ClientAuth)
	case s.opts.MTLSAliases && rec.Host != s.mutual:
		err = errors.New("the client has to use mtls_endpoint_aliases")
	case err == nil && rec.ClientID != s.opts.ClientID:
		err = errors.New("unknown client")
	}
	if err == nil {
		return nil
	}
	rec.AuthError = err.Error()
	res := oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed")
	res.header.Set("WWW-Authenticate", "Basic")
	return res
}

func (s *Server) checkCredentials(rec *Request) error {
	switch rec.ClientAuth {
	case "none":
		if !s.opts.PublicClient {
			return errors.New("no credentials")
		}
		return nil
	case "both":
		return errors.New("two methods at once")
	case "private_key_jwt", "client_secret_jwt":
		return s.checkAssertion(rec)
	case "tls_client_auth":
		_, err := rec.Certificate.Verify(x509.VerifyOptions{Roots: s.opts.ClientRoots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err == nil && rec.Certificate.Subject.String() != s.opts.ClientSubject {
			err = fmt.Errorf("the certificate is of %s", rec.Certificate.Subject)
		}
		return err
	case "self_signed_tls_client_auth":
		keys, err := parseClientKeys(s.opts.ClientKeys())
		if err == nil && !slices.ContainsFunc(keys, func(k clientKey) bool { return k.certificate != nil && k.certificate.Equal(rec.Certificate) }) {
			err = errors.New("the certificate is not registered")
		}
		return err
	}
	if s.opts.PublicClient || rec.ClientSecret != s.opts.ClientSecret {
		return errors.New("wrong secret")
	}
	return nil
}

// checkAssertion validates a client assertion as RFC 7523 section 3 says, with the
// issuer as the one audience.
func (s *Server) checkAssertion(rec *Request) error {
	if t := rec.Form["client_assertion_type"]; len(t) != 1 || t[0] != clientAssertionType {
		return fmt.Errorf("client_assertion_type is %q", t)
	}
	header, claims, err := assertionParts(rec.Assertion)
	if err != nil {
		return err
	}
	if err := s.checkAssertionSignature(rec, header); err != nil {
		return err
	}
	audience := s.opts.AssertionAudience
	if audience == "" {
		audience = s.issuer()
	}
	typ, given := header["typ"].(string)
	want := s.opts.AssertionType
	if want == "" {
		want = "client-authentication+jwt"
	}
	now := time.Now()
	iat, _ := claims["iat"].(float64)
	exp, _ := claims["exp"].(float64)
	jti, _ := claims["jti"].(string)
	switch {
	case claims["iss"] != s.opts.ClientID || claims["sub"] != s.opts.ClientID:
		return fmt.Errorf("iss is %v, sub is %v", claims["iss"], claims["sub"])
	case rec.Form.Has("client_id") && rec.Form.Get("client_id") != s.opts.ClientID:
		return errors.New("client_id is another")
	case claims["aud"] != audience: // an array is no string
		return fmt.Errorf("aud is %v", claims["aud"])
	case given != (want != "-") || given && typ != want:
		return fmt.Errorf("typ is %q", typ)
	case now.Before(time.Unix(int64(iat), 0)) || !now.Before(time.Unix(int64(exp), 0)) || time.Duration(exp-iat)*time.Second > maxAssertionLife:
		return fmt.Errorf("iat is %v, exp is %v", iat, exp)
	case len(jti) < 16 || s.assertions[jti]:
		return fmt.Errorf("jti %q is short, or was used before", jti)
	}
	s.assertions[jti] = true
	rec.ClientID = s.opts.ClientID
	return nil
}

func (s *Server) checkAssertionSignature(rec *Request, header map[string]any) error {
	alg, _ := header["alg"].(string)
	if len(s.opts.AssertionAlgs) > 0 && !slices.Contains(s.opts.AssertionAlgs, alg) {
		return fmt.Errorf("alg is %s", alg)
	}
	if rec.ClientAuth == "client_secret_jwt" {
		hash := map[string]crypto.Hash{"HS256": crypto.SHA256, "HS384": crypto.SHA384, "HS512": crypto.SHA512}[alg]
		if hash == 0 || len(s.opts.ClientSecret) < hash.Size() { // RFC 7518 section 3.2
			return fmt.Errorf("alg is %s, the secret has %d bytes", alg, len(s.opts.ClientSecret))
		}
		at := strings.LastIndexByte(rec.Assertion, '.')
		mac := hmac.New(hash.New, []byte(s.opts.ClientSecret))
		mac.Write([]byte(rec.Assertion[:at]))
		if rec.Assertion[at+1:] != b64(mac.Sum(nil)) {
			return errors.New("the signature does not verify with the client secret")
		}
		return nil
	}
	if s.opts.ClientKeys == nil {
		return errors.New("the client has no keys")
	}
	return CheckSignature(s.opts.ClientKeys(), rec.Assertion)
}

// assertionParts takes a client assertion apart, without any check.
func assertionParts(raw string) (header, claims map[string]any, err error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, nil, errors.New("client_assertion is no JWT")
	}
	for i, to := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(data, to)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("client_assertion: %w", err)
		}
	}
	return header, claims, nil
}

// AssertionParts returns header and claims of the client assertion of a request;
// nil without one.
func (rec *Request) AssertionParts() (header, claims map[string]any) {
	header, claims, err := assertionParts(rec.Assertion)
	if err != nil {
		return nil, nil
	}
	return header, claims
}
