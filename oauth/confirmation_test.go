// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// AT-10: what an access token is bound to has to be ours, and the reason says what
// it is.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	certificate := newCertificate(t, certificateFiles(t, astest.SelfSigned("app")))
	ours := certificate.current().thumbprint
	jkt := func(k *DPoPKey) map[string]any { return map[string]any{"jkt": k.Thumbprint()} }
	x5t := func(sum any) map[string]any { return map[string]any{"x5t#S256": sum} }
	for name, tc := range map[string]struct {
		cnf         any
		key         *DPoPKey
		certificate *ClientCertificate
		reason      string // "": good
	}{
		"none":                       {nil, nil, nil, ""},
		"none, with a key":           {nil, key, nil, ""},
		"our key":                    {jkt(key), key, nil, ""},
		"another key":                {jkt(other), key, nil, "another DPoP key (cnf jkt)"},
		"a key, and none here":       {jkt(other), nil, nil, "a DPoP key (cnf jkt), and there is none here"},
		"jkt that is no text":        {map[string]any{"jkt": 7}, key, nil, "another DPoP key"},
		"our certificate":            {x5t(ours), nil, certificate, ""},
		"another certificate":        {x5t("AAAA"), nil, certificate, "another certificate (cnf x5t#S256)"},
		"sum that is no text":        {x5t(7), nil, certificate, "another certificate"},
		"a certificate, none here":   {x5t(ours), key, nil, "a certificate (cnf x5t#S256), and the client has none"},
		"both":                       {map[string]any{"jkt": key.Thumbprint(), "x5t#S256": ours}, key, certificate, ""},
		"both, another certificate":  {map[string]any{"jkt": key.Thumbprint(), "x5t#S256": "AAAA"}, key, certificate, "another certificate"},
		"both, another key":          {map[string]any{"jkt": other.Thumbprint(), "x5t#S256": ours}, key, certificate, "another DPoP key"},
		"something else":             {map[string]any{"kid": "k"}, key, certificate, "neither"},
		"empty":                      {map[string]any{}, key, certificate, "neither"},
		"no object":                  {"x", key, certificate, "neither"},
		"a key, with no certificate": {jkt(key), key, certificate, ""},
	} {
		as := astest.New(astest.Options{
			AccessTokenClaims:   func(_, cl map[string]any) { cl["cnf"] = tc.cnf },
			IntrospectionClaims: func(_ string, cl map[string]any) { cl["cnf"] = tc.cnf },
		})
		c := newClient(t, as)
		c.cfg.Certificate = tc.certificate // no connection shows it
		token := Secret(as.Issue("alice", "openid", "").AccessToken)
		for _, mode := range []ValidateMode{ValidateJWT, ValidateAuto, ValidateIntrospection} {
			v, err := c.CheckBoundAccessToken(t.Context(), token, tc.key, mode, "https://api.test")
			switch {
			case tc.reason == "" && (err != nil || !c.VerdictCurrent(v, time.Now())):
				t.Errorf("%s, %s: %v", name, mode, err)
			case tc.reason != "" && (!errors.Is(err, ErrConfirmation) || !errors.Is(err, ErrAccessToken) || !strings.Contains(err.Error(), tc.reason)):
				t.Errorf("%s, %s: %v", name, mode, err)
			}
		}
		if _, err := c.CheckBoundAccessToken(t.Context(), token, tc.key, ValidateExpiry); err != nil { // AT-05
			t.Errorf("%s: mode expiry looks into the token: %v", name, err)
		}
	}
}

// MT-03: a token that is bound to the certificate of yesterday is good no more.
func TestConfirmationFollowsTheCertificate(t *testing.T) {
	t.Parallel()
	files := certificateFiles(t, astest.SelfSigned("app"))
	certificate := newCertificate(t, files)
	as := astest.New(astest.Options{})
	as.Configure(func(o *astest.Options) {
		sum := certificate.current().thumbprint
		o.AccessTokenClaims = func(_, cl map[string]any) { cl["cnf"] = map[string]any{"x5t#S256": sum} }
	})
	c := newClient(t, as)
	c.cfg.Certificate = certificate
	token := Secret(as.Issue("alice", "openid", "").AccessToken)
	v, err := c.CheckAccessToken(t.Context(), token, ValidateJWT, "https://api.test")
	if err != nil || !c.VerdictCurrent(v, time.Now()) {
		t.Fatal(err)
	}
	writeCertificate(t, files, astest.SelfSigned("app"))
	certificate.files.lookAgain()
	if c.VerdictCurrent(v, time.Now()) {
		t.Error("the verdict stands")
	}
	if _, err := c.CheckAccessToken(t.Context(), token, ValidateJWT, "https://api.test"); !errors.Is(err, errOtherCertificate) {
		t.Error(err)
	}
	c.cfg.Certificate = nil
	if c.VerdictCurrent(v, time.Now()) {
		t.Error("the verdict stands without a certificate")
	}
}
