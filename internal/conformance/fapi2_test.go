// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "github.com/caddy-bff/caddy-bff/internal/astest"

// What the two plans of FAPI 2.0 have in common: how clients authenticate, what binds
// their access tokens, and an authorization server that is as strict as the profile.

// clientKey and clientCertificate are the client's.
var (
	clientKey         = astest.NewKey("ES256", "client-1")
	clientCertificate = authority.Issue("app")
)

// authentication is a way in which the client authenticates.
type authentication struct {
	name, says string
	apply      func(*setting)
}

// binding is one in which its access tokens are bound to it, and the modules that are
// no question then, with the reason.
type binding struct {
	name, says string
	apply      func(*setting)
	without    map[string]string
}

// ofDPoP are the modules that tokens bound by mutual TLS leave out.
func ofDPoP() map[string]string {
	const why = "is about DPoP; these tokens are bound by mutual TLS"
	return map[string]string{
		fapi + "test-happy-path-no-dpop-nonce":               why,
		fapi + "test-rs-dpop-auth-scheme-case-insensitivity": why,
	}
}

// The variants are every authentication with every binding.
var (
	authentications = []authentication{
		{"private_key_jwt", "`private_key_jwt`", func(set *setting) {
			set.as.AuthMethod, set.as.AssertionAlgs = "private_key_jwt", []string{"PS256", "ES256", "EdDSA"}
			set.as.Algorithm = "PS256"
		}},
		{"mtls", "`tls_client_auth`", func(set *setting) {
			set.as.AuthMethod, set.as.ClientRoots, set.as.ClientSubject = "tls_client_auth", authority.Pool(), clientCertificate.Leaf.Subject.String()
			set.as.Algorithm = "ES256"
			set.as.MTLSAliases, set.clientCertificate = true, clientCertificate
		}},
	}
	bindings = []binding{
		{"mtls", "mutual TLS", func(set *setting) {
			set.as.MTLSAliases, set.as.BindTokens = true, true
			set.clientCertificate = clientCertificate
		}, ofDPoP()},
		{"dpop", "DPoP", func(set *setting) {
			set.as.DPoP, set.as.RequireDPoP = true, true
			set.bff += "\ndpop on"
			set.proxy = "dpop"
		}, nil},
	}
)

// strictSetting is a client of a server that takes pushed requests alone, and whose
// JWK Set has a decoy: another key with the same key ID, for an algorithm that is not
// registered. The key to sign requests with is there where the profile needs one.
func strictSetting(apply ...func(*setting)) setting {
	set := setting{
		as:    astestOptions{RequirePAR: true},
		bff:   "par required",
		files: map[string][]byte{"client.json": astest.PrivateKeySet(clientKey)},
	}
	alsoPublished(decoy)(&set.as)
	for _, one := range apply {
		one(&set)
	}
	options := ""
	if set.as.AuthMethod == "private_key_jwt" || set.as.RequireSignedRequest {
		options += "\nkey_file {dir}/client.json"
	}
	if set.clientCertificate != nil {
		options += "\ncertificate {dir}/client.pem\nprivate_key {dir}/client.key"
	}
	set.credentials = "client_auth " + set.as.AuthMethod + " {" + options + "\n}"
	return set
}

// decoy has the key ID of the authorization server's first key.
var decoy = astest.NewKey("RS256", "key-1")

// fapiVariants are the variants of a plan that adds something to all of them.
func fapiVariants(plan func(*setting)) (list []variant) {
	for _, a := range authentications {
		for _, b := range bindings {
			list = append(list, variant{
				name: a.name + "," + b.name, says: a.says + ", tokens bound by " + b.says,
				setting: func() setting { return strictSetting(a.apply, b.apply, plan) }, without: b.without,
			})
		}
	}
	return list
}

// byTheDecoy signs the same claims with the decoy.
func byTheDecoy(raw string) string {
	_, claims := parts(raw)
	return decoy.Sign(decoy.Header("JWT"), claims)
}
