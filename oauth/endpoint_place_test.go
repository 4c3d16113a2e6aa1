// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// C309, MD-03: where a metadata document may send us.
func TestPlacesOfEndpoints(t *testing.T) {
	t.Parallel()
	const (
		public, private, local = "https://login.example.com", "https://10.1.2.3", "http://localhost:8080/t1"
	)
	for endpoint, ok := range map[string][]bool{ // for each of the three issuers
		"https://keys.example.net/jwks":           {true, true, true},
		"https://203.0.113.7/jwks":                {true, true, true},
		"https://[2001:db8::1]/jwks":              {true, true, true},
		"https://keys.internal":                   {true, true, true},
		"https://10.1.2.3/jwks":                   {false, true, true},
		"https://10.9.9.9/jwks":                   {false, true, true},
		"https://172.16.0.1/jwks":                 {false, true, true},
		"https://192.168.0.1/jwks":                {false, true, true},
		"https://100.64.0.1/jwks":                 {false, true, true},
		"https://[fd00::1]/jwks":                  {false, true, true},
		"https://[::ffff:10.0.0.1]/jwks":          {false, true, true},
		"https://127.0.0.1:8443/jwks":             {false, false, true},
		"http://127.9.9.9/jwks":                   {false, false, true},
		"http://[::1]:9/jwks":                     {false, false, true},
		"http://localhost:6379/jwks":              {false, false, true},
		"http://LOCALHOST./jwks":                  {false, false, true},
		"http://keys.localhost/jwks":              {false, false, true},
		"https://[::ffff:127.0.0.1]/jwks":         {false, false, true},
		"https://169.254.169.254/latest":          {false, false, false},
		"https://[fe80::1]/jwks":                  {false, false, false},
		"https://[fe80::1%25eth0]/jwks":           {false, false, false},
		"https://[::ffff:169.254.169.254]/latest": {false, false, false},
		"https://0.0.0.0/jwks":                    {false, false, false},
		"https://[::]/jwks":                       {false, false, false},
		"https://224.0.0.1/jwks":                  {false, false, false},
		"https://2130706433/jwks":                 {false, false, false},
		"https://127.1/jwks":                      {false, false, false},
		"https://0x7f000001/jwks":                 {false, false, false},
		"https://0251.0376.0251.0376/jwks":        {false, false, false},
	} {
		for i, issuer := range []string{public, private, local} {
			if err := checkPlace(endpoint, issuer); (err == nil) != ok[i] {
				t.Errorf("%s of %s: %v", endpoint, issuer, err)
			}
		}
	}
	if err := checkPlace("https://169.254.1.2:8443/jwks", "https://169.254.1.2"); err != nil {
		t.Errorf("the issuer's own host: %v", err)
	}
}

// C309, C308: and nothing is sent there, by whatever member it is named.
func TestMetadataSendsNobodyToThisMachine(t *testing.T) {
	t.Parallel()
	for _, member := range []string{
		"authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint", "introspection_endpoint",
		"pushed_authorization_request_endpoint", "end_session_endpoint", "userinfo_endpoint",
	} {
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc[member] = "http://127.0.0.1:6379/" }})
		_, err := newClient(t, as).Metadata(t.Context())
		if !errors.Is(err, ErrMetadata) || as.Count(astest.JWKS)+as.Count(astest.Token)+as.Count("unknown") != 0 {
			t.Errorf("%s: %v", member, err)
		}
	}
}
