// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// replaced is an option in which placeholders of variables and files are
// replaced, once, at load. The client secret has rules of its own.
type replaced struct {
	option string
	values []*string
	// forget makes the option what it would be if it were not given, or
	// something else that is acceptable.
	forget func()
}

func (h *Handler) replaced() []replaced {
	text := func(option string, v *string, byDefault string) replaced {
		return replaced{option, []*string{v}, func() { *v = byDefault }}
	}
	list := func(option string, v *[]string) replaced {
		r := replaced{option: option, forget: func() { *v = nil }}
		for i := range *v {
			r.values = append(r.values, &(*v)[i])
		}
		return r
	}
	all := []replaced{
		text("issuer", &h.Issuer, ""), text("client_id", &h.ClientID, ""), text("public_origin", &h.PublicOrigin, ""), text("name", &h.Name, ""),
		text("base_path", &h.BasePath, defaultBasePath), text("logout return_to", &h.Logout.ReturnTo, defaultAfterLogout),
		// A file that is not known yet is some file.
		text("client_auth key_file", &h.ClientAuth.KeyFile, "unknown"), text("client_auth key_id", &h.ClientAuth.KeyID, ""),
		text("client_auth certificate", &h.ClientAuth.Certificate, "unknown"), text("client_auth private_key", &h.ClientAuth.PrivateKey, "unknown"),
		list("tenants", &h.Tenants), list("scope", &h.Scope), list("resource", &h.Resource), list("trust_ca", &h.TrustCA), list("claims", &h.Claims), list("access_token audience", &h.AccessToken.Audience),
		list("trusted_origins", &h.TrustedOrigins), list("login_param", &h.LoginParam),
		{"csrf_header", []*string{&h.CSRFHeader.Name, &h.CSRFHeader.Value}, func() { h.CSRFHeader = defaultCSRFHeader() }},
	}
	origins := list("return_origins", &h.ReturnOrigins)
	origins.forget = func() { // return_to may name one of them
		h.ReturnOrigins, h.Logout.ReturnTo = nil, defaultAfterLogout
	}
	all = append(append(all, origins), h.Metadata.replaced()...)
	for _, name := range slices.Sorted(maps.Keys(h.AuthorizationParam)) {
		values := h.AuthorizationParam[name]
		r := list("authorization_param "+name, &values)
		r.values = slices.DeleteFunc(r.values, func(v *string) bool { return jsonText(*v) }) // the braces are its own
		r.forget = func() { delete(h.AuthorizationParam, name) }
		all = append(all, r)
	}
	return all
}

// jsonText reports a JSON object or array, such as the parameters claims and
// authorization_details are.
func jsonText(v string) bool {
	return v != "" && strings.ContainsRune("{[", rune(v[0])) && json.Valid([]byte(v))
}

func (h *Handler) replacePlaceholders() error {
	repl := caddy.NewReplacer()
	for _, r := range h.replaced() {
		for _, v := range r.values {
			out, err := repl.ReplaceOrErr(*v, true, true)
			if err != nil {
				return fmt.Errorf("%s is %q: %w", r.option, *v, err)
			}
			*v = out
		}
	}
	return nil
}

// forgetUnknown leaves out what is not known before the configuration is loaded.
func (h *Handler) forgetUnknown() {
	for _, r := range h.replaced() {
		if slices.ContainsFunc(r.values, func(v *string) bool { return strings.Contains(*v, "{") }) {
			r.forget()
		}
	}
}
