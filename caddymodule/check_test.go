// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// wrongValues are values that no option may have: the option with its value in
// a Caddyfile, the same in JSON, and what is said of it.
var wrongValues = []struct{ caddyfile, json, want string }{
	{"base_path bff", `"base_path":"bff"`, `base_path is "bff"`},
	{"base_path /", `"base_path":"/"`, `base_path is "/"`},
	{"base_path /bff/", `"base_path":"/bff/"`, `base_path is "/bff/"`},
	{"base_path /bff/*", `"base_path":"/bff/*"`, `base_path is "/bff/*"`},
	{"base_path /bff;v=1", `"base_path":"/bff;v=1"`, `base_path is "/bff;v=1"`},
	{"base_path //bff", `"base_path":"//bff"`, `base_path is "//bff"`},
	{"base_path /a//b", `"base_path":"/a//b"`, `base_path is "/a//b"`},
	{"base_path /a/../bff", `"base_path":"/a/../bff"`, `base_path is "/a/../bff"`},
	{"base_path /./bff", `"base_path":"/./bff"`, `base_path is "/./bff"`},
	{"base_path /b%66f", `"base_path":"/b%66f"`, `base_path is "/b%66f"`},
	{"base_path \"/b\tff\"", `"base_path":"/b\tff"`, `base_path is "/b\tff"`},
	{"base_path /bff?x", `"base_path":"/bff?x"`, `base_path is "/bff?x"`},
	{"name \"a b\"", `"name":"a b"`, `name "a b"`},
	{"public_origin https://app.example.com/x", `"public_origin":"https://app.example.com/x"`, `public_origin: "https://app.example.com/x"`},
	{"public_origin http://app.example.com", `"public_origin":"http://app.example.com"`, "plain http works on loopback only"},
	{"return_origins help.example.com", `"return_origins":["help.example.com"]`, `return_origins: "help.example.com"`},
	{"trusted_origins *", `"trusted_origins":["*"]`, `trusted_origins: "*"`},
	{"scope openid \"a b\"", `"scope":["openid","a b"]`, `scope: "a b"`},
	{"scope profile email", `"scope":["profile","email"]`, "lacks openid"}, // AR-05
	{"response_mode fragment", `"response_mode":"fragment"`, `response_mode is "fragment"`},
	{"error_pages none", `"error_pages":"none"`, `error_pages is "none"`},
	{"csrf_header \"X CSRF\" 1", `"csrf_header":{"name":"X CSRF","value":"1"}`, `csrf_header: "X CSRF"`},
	{"csrf_header X-CSRF \"1 \"", `"csrf_header":{"name":"X-CSRF","value":"1 "}`, `csrf_header: "1 "`},
	{"csrf_header X-CSRF \"\"", `"csrf_header":{"name":"X-CSRF"}`, `csrf_header: ""`},
	{"authorization_param state x", `"authorization_param":{"state":["x"]}`, `authorization_param: "state"`},
	{"authorization_param display \"\"", `"authorization_param":{"display":[""]}`, `authorization_param "display" needs a value`},
	{"authorization_param resource https://a\nauthorization_param resource https://a", `"authorization_param":{"resource":["https://a","https://a"]}`, `"resource" has the same value twice`},
	{"authorization_param display page\nauthorization_param display popup", `"authorization_param":{"display":["page","popup"]}`, `"display" is given more than once`},
	{"login_param state", `"login_param":["state"]`, "login_param: state is not for the browser to say"},
	{"login_param client_secret", `"login_param":["client_secret"]`, "login_param: client_secret is not for the browser to say"},
	{"login_param prompt return_to", `"login_param":["prompt","return_to"]`, "login_param: return_to is the gateway's own"},
	{"login_param rd", `"login_param":["rd"]`, "login_param: rd is the gateway's own"},
	{"login_param force", `"login_param":["force"]`, "login_param: force is the gateway's own"},
	{"login_param \"a b\"", `"login_param":["a b"]`, `login_param: "a b" is no name`},
	{"session {\nidle_timeout 13h\n}", `"session":{"idle_timeout":"13h"}`, "session idle_timeout is 13h0m0s, which the lifetime of 12h0m0s never lets happen"},
	{"session {\nidle_timeout 2h\nlifetime 1h\n}", `"session":{"idle_timeout":"2h","lifetime":"1h"}`, "session idle_timeout is 2h0m0s"},
	{"refresh {\nrotation grace\n}", `"refresh":{"rotation":"grace"}`, "refresh rotation grace needs a duration above zero"},
	{"refresh {\nrotation strict 5s\n}", `"refresh":{"rotation":"strict","rotation_grace":"5s"}`, "refresh rotation strict takes no duration, and has 5s"},
	{"refresh {\nrotation -1\n}", `"refresh":{"rotation":"-1"}`, `refresh rotation is "-1", should be one of: auto, none, strict, grace <duration>`},
	{"refresh {\non 403\n}", `"refresh":{"on":"403"}`, `refresh on is "403"`},
	{"cookie {\nsame_site none\n}", `"cookie":{"same_site":"none"}`, `cookie same_site is "none"`},
	{"access_token {\nleeway 10m\n}", `"access_token":{"leeway":"10m"}`, "access_token leeway is 10m0s"},
	{"access_token {\nvalidate expiry\naudience a\n}", `"access_token":{"validate":"expiry","audience":["a"]}`, "access_token: audience means nothing with validate expiry"},
	{"logout {\nreturn_to //evil.example.com\n}", `"logout":{"return_to":"//evil.example.com"}`, `logout return_to is "//evil.example.com"`},
	{"logout {\nreturn_to /bff/login\n}", `"logout":{"return_to":"/bff/login"}`, `logout return_to is "/bff/login"`},
	{"logout {\nbackchannel maybe\n}", `"logout":{"backchannel":"maybe"}`, `logout backchannel is "maybe"`},
	{"logout {\nfrontchannel auto\n}", `"logout":{"frontchannel":"auto"}`, `logout frontchannel is "auto"`},
	{"logout {\nid_token_hint maybe\n}", `"logout":{"id_token_hint":"maybe"}`, `logout id_token_hint is "maybe"`},
}

// A105, A605: what is wrong is found when the Caddyfile is adapted, with file
// and line of the option itself, and in JSON when it is loaded, with the site
// and the application. The text is the same.
func TestWrongValues(t *testing.T) {
	for _, tt := range wrongValues {
		written := "issuer https://as.example.com\nclient_id shop\nclient_auth none\n"
		_, err := adaptConfig("app.example.com {\nbff {\n" + written + tt.caddyfile + "\nclaims sub\n}\n}\n")
		// The innermost option, or the second of two lines, is where it is.
		line := 6
		switch lines := strings.Split(tt.caddyfile, "\n"); {
		case strings.HasPrefix(lines[0], "authorization_param") && len(lines) > 1, strings.Contains(lines[0], "{\n"), strings.HasSuffix(lines[0], " {"):
			line = 7
		}
		if want := fmt.Sprintf(", at Caddyfile:%d", line); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: adapting: error %v, want %q%s", tt.caddyfile, err, tt.want, want)
		}
		err = provisionAt(t, "app.example.com", `{"issuer":"https://as.example.com","client_id":"shop","client_auth":"none",`+tt.json+`}`)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "bff of site app.example.com (") {
			t.Errorf("%s: loading: error %v, want %q and the site", tt.json, err, tt.want)
		}
	}
}

// The same for options that every configuration has.
func TestWrongClient(t *testing.T) {
	for _, tt := range []struct{ caddyfile, json, want, line string }{
		{"issuer http://as.example.com\nclient_id shop\nclient_auth none", `"issuer":"http://as.example.com","client_id":"shop","client_auth":"none"`, `issuer is "http://as.example.com"`, "Caddyfile:3"},
		{"client_id shop\nissuer https://u:canary@as.example.com\nclient_auth none", `"issuer":"https://u:canary@as.example.com","client_id":"shop","client_auth":"none"`, "has user information", "Caddyfile:4"},
		{"client_id sh\u00f6p\nissuer https://as.example.com\nclient_auth none", `"issuer":"https://as.example.com","client_id":"shöp","client_auth":"none"`, "client_id is", "Caddyfile:3"},
		{"issuer https://as.example.com\nclient_id shop", `"issuer":"https://as.example.com","client_id":"shop"`, "bff needs a client_secret, or client_auth none", "Caddyfile:2"},
		{"client_id shop", `"client_id":"shop"`, "bff needs an issuer", "Caddyfile:2"},
		{"issuer {env.ISSUER}", `"issuer":"{env.ISSUER}"`, "bff needs a client_id", "Caddyfile:2"},
		{"issuer https://as.example.com\nclient_id shop\nclient_auth client_secret_post", `"issuer":"https://as.example.com","client_id":"shop","client_auth":"client_secret_post"`, "client_auth client_secret_post needs a client_secret", "Caddyfile:5"},
		{"issuer https://as.example.com\nclient_id shop\nclient_secret {env.S}\nclient_auth none", `"issuer":"https://as.example.com","client_id":"shop","client_auth":"none","client_secret":"x"`, "client_auth none takes no client_secret", "Caddyfile:6"},
	} {
		_, err := adaptConfig("app.example.com {\nbff {\n" + tt.caddyfile + "\n}\n}\n")
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), ", at "+tt.line) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: adapting: error %v, want %q at %s", tt.caddyfile, err, tt.want, tt.line)
		}
		err = provisionAt(t, "app.example.com", "{"+tt.json+"}")
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "bff of site app.example.com") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: loading: error %v, want %q and the site", tt.json, err, tt.want)
		}
	}
}

// What can only be wrong in JSON, or once placeholders are replaced.
func TestWrongOnceLoaded(t *testing.T) {
	t.Setenv("BFF_TEST_ISSUER", "http://as.example.com")
	t.Setenv("BFF_TEST_NAME", "a/b")
	for config, want := range map[string]string{
		`{"issuer":"https://as.example.com","authorization_param":{"display":[]}}`: `authorization_param "display" needs a value`,
		`{"issuer":"https://as.example.com","authorization_param":{"":["x"]}}`:     "authorization_param has an empty name",
		`{"issuer":"https://as.example.com","login_param":["prompt","prompt"]}`:    `login_param: "prompt" appears twice`,
		`{"issuer":"https://as.example.com","refresh":{"rotation_grace":-1}}`:      "refresh rotation auto takes no duration",
		`{"issuer":"https://as.example.com","http_timeout":-1}`:                    "http_timeout is -1ns, should be above zero",
		`{"issuer":"https://as.example.com","access_token":{"audience":[""]}}`:     "access_token audience has an empty value",
		`{"issuer":"https://as.example.com","trust_ca":["/nowhere/ca.pem"]}`:       "trust_ca: open /nowhere/ca.pem",
		`{"issuer":"{env.BFF_TEST_ISSUER}"}`:                                       `issuer is "http://as.example.com"`,
		`{"issuer":"{env.BFF_TEST_NONE}"}`:                                         `issuer is "{env.BFF_TEST_NONE}"`,
		`{"issuer":"{http.request.host}"}`:                                         `issuer is "{http.request.host}"`,
		`{"issuer":"https://as.example.com","name":"{env.BFF_TEST_NAME}"}`:         `name "a/b"`,
	} {
		err := provisionAt(t, "app.example.com", `{"client_id":"shop","client_auth":"none",`+config[1:])
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bff of site app.example.com (") {
			t.Errorf("%s: error %v, want %q and the site", config, err, want)
		}
	}
}

// Values with placeholders are left for the load, whatever they look like.
func TestPlaceholdersAreAdapted(t *testing.T) {
	t.Parallel()
	out, err := adaptConfig(bffSite("issuer {env.ISSUER}\nclient_id {env.ID}\nclient_secret {file./run/secrets/s}\nname {env.NAME}\npublic_origin {env.ORIGIN}\n"))
	if err != nil {
		t.Fatal(err)
	}
	// Nor do defaults get into what was written.
	if s := string(out); !strings.Contains(s, `"issuer":"{env.ISSUER}"`) || strings.Contains(s, "base_path") || strings.Contains(s, "login_param") {
		t.Error(s)
	}
}

// Legitimate values, which a rule could be too strict for.
func TestRightValues(t *testing.T) {
	for _, options := range []string{
		"authorization_param resource https://a\nauthorization_param resource https://b",
		"base_path /apps/shop-1/_bff", "base_path /.well-known/bff", "csrf_header X-Requested-With XMLHttpRequest", "csrf_header X-Shop a,b",
		"session {\nlifetime 10m\n}", "session {\nidle_timeout 1h\nlifetime 1h\n}", "login_param kc_idp_hint login_hint",
		"return_origins https://help.example.com\nlogout {\nreturn_to https://help.example.com/bye\n}", "scope openid", "refresh {\nrotation grace 10s\n}",
	} {
		out, err := adaptConfig("app.example.com {\nbff {\nissuer https://as.example.com\nclient_id shop\nclient_auth none\n" + options + "\n}\n}\n")
		if err == nil {
			err = validate(t, string(out))
		}
		if err != nil {
			t.Errorf("%s: %v", options, err)
		}
	}
}

// A header that browsers or proxies send by themselves, or that any page may
// send without a preflight, proves nothing. CSRF rule (a).
func TestAmbientCSRFHeaders(t *testing.T) {
	t.Parallel()
	for _, name := range strings.Fields(`DNT Upgrade-Insecure-Requests Save-Data Sec-Fetch-Site Sec-CH-UA Sec-GPC Proxy-Authorization Cache-Control Pragma Priority TE
		Accept Accept-Language Accept-Encoding Content-Type Content-Length User-Agent Origin Referer Cookie Host Connection Range If-None-Match If-Modified-Since
		Authorization Keep-Alive Transfer-Encoding Upgrade Via Date Expect X-Forwarded-For X-Forwarded-Proto Forwarded X-Real-IP Last-Event-ID Downlink DPR
		Access-Control-Request-Method X-HTTP-Method-Override Service-Worker Purpose cOOKIE`) {
		_, err := adaptConfig(bffSite("issuer https://as.example.com\nclient_id app\nclient_auth none\ncsrf_header " + name + " 1\n"))
		if err == nil || !strings.Contains(err.Error(), "csrf_header: "+name) || !strings.HasSuffix(err.Error(), "Caddyfile:6") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// provisionAt loads a handler at a site of its own.
func provisionAt(t *testing.T, host, handler string) error {
	t.Helper()
	handler = `{"handler":"bff",` + handler[1:]
	if !json.Valid([]byte("[" + handler + "]")) {
		t.Fatalf("not JSON: %s", handler)
	}
	return validate(t, fmt.Sprintf(`{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},
		"routes":[{"handle":[{"handler":"static_response"}],"match":[{"host":["other.example.com"]}],"terminal":true},
		{"match":[{"host":[%q]}],"terminal":true,"handle":[{"handler":"subroute","routes":[{"handle":[%s]}]}]}]}}}}}`, host, handler))
}

// ID tokens, signed responses and logout tokens have clocks too, however access tokens
// are judged.
func TestLeewayWithoutValidation(t *testing.T) {
	const config = `{"issuer":"https://as.example.com","client_id":"shop","client_auth":"none","access_token":{"validate":"expiry","leeway":"10s"}}`
	if err := provisionAt(t, "app.example.com", config); err != nil {
		t.Error(err)
	}
}
