// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

// sessionManagementPlan is not for this gateway.
func sessionManagementPlan() plan {
	return plan{
		name: "oidcc-client-rp-session-management-rp-basic", title: "Session Management RP",
		needs: "Not supported.",
		modules: []module{{
			name: "oidcc-client-test-session-management", sent: "`check_session_iframe`, which answers `unchanged` and later `changed`",
			inapplicable: "frames that poll the authorization server need its cookies as a third party, which browsers block. Back-channel logout tells the gateway instead",
		}},
	}
}
