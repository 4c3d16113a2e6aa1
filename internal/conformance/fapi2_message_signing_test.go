// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "time"

// messageSigningPlan covers PR-05 to PR-07 from outside.
func messageSigningPlan() plan {
	const elsewhere = "the suite leaves it out with signed responses, whose `iss` the modules `ensure-jarm` are about"
	return plan{
		name: "fapi2-message-signing-final-client-test-plan", title: "FAPI 2.0 Message Signing client",
		needs: "Needs what the Security Profile needs, `request_object required`, and `response_mode jwt`. Requests are signed (JAR, RFC 9101) and so are responses (JARM). Introspection answers and HTTP messages are not part of the plan.",
		variants: fapiVariants(func(set *setting) {
			set.as.RequireSignedRequest, set.as.JARM = true, true
			set.bff += "\nrequest_object required\nresponse_mode jwt"
		}),
		modules: append(signedResponses(elsewhere), signedResponseModules()...),
	}
}

// signedResponses are the modules of the Security Profile as they are with JARM.
func signedResponses(elsewhere string) []module {
	list := securityProfileModules()
	for i := range list {
		switch m := &list[i]; m.name {
		case fapi + "test-invalid-authorization-response-iss", fapi + "test-remove-authorization-response-iss":
			m.inapplicable = elsewhere
		case fapi + "test-ensure-authorization-response-with-invalid-state-fails":
			m.as = responseClaims(func(c map[string]any) { c["state"] = "another" })
		case fapi + "test-ensure-authorization-response-with-invalid-missing-state-fails":
			m.as = responseClaims(func(c map[string]any) { delete(c, "state") })
		}
	}
	return list
}

func responseClaims(change func(claims map[string]any)) func(*astestOptions) {
	return func(o *astestOptions) {
		o.ResponseJWT = func(_, claims map[string]any) { change(claims) }
	}
}

// signedResponseModules are about JARM section 2.4.
func signedResponseModules() []module {
	return []module{
		{
			name: fapi + "test-ensure-jarm-without-iss-fails", sent: "signed response without `iss`", run: stopped,
			as: responseClaims(func(c map[string]any) { delete(c, "iss") }),
		},
		{
			name: fapi + "test-ensure-jarm-with-invalid-iss-fails", sent: "signed response with another `iss`", run: stopped,
			as: responseClaims(func(c map[string]any) { c["iss"] = "https://other.example.com" }),
		},
		{
			name: fapi + "test-ensure-jarm-without-aud-fails", sent: "signed response without `aud`", run: stopped,
			as: responseClaims(func(c map[string]any) { delete(c, "aud") }),
		},
		{
			name: fapi + "test-ensure-jarm-with-invalid-aud-fails", sent: "signed response whose `aud` is another client", run: stopped,
			as: responseClaims(func(c map[string]any) { c["aud"] = "another" }),
		},
		{
			name: fapi + "test-ensure-jarm-without-exp-fails", sent: "signed response without `exp`", run: stopped,
			as: responseClaims(func(c map[string]any) { delete(c, "exp") }),
		},
		{
			name: fapi + "test-ensure-jarm-with-expired-exp-fails", sent: "signed response that expired more than five minutes ago", run: stopped,
			as: responseClaims(func(c map[string]any) { c["exp"] = time.Now().Add(-6 * time.Minute).Unix() }),
		},
		{
			name: fapi + "test-ensure-jarm-with-invalid-sig-fails", sent: "signed response whose signature was tampered with", run: stopped,
			as: authorizationResponse("response", tampered),
		},
		{
			name: fapi + "test-ensure-jarm-signature-is-not-none", sent: "response with `alg` none", run: stopped,
			as: authorizationResponse("response", unsigned),
		},
	}
}
