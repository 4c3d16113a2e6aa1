// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const goldenDir = "../testdata/caddyfile_adapt"

func adaptConfig(config string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return out, err
}

// TestCaddyfileAdapt holds each golden file: a Caddyfile, a line of dashes, and
// the JSON or the error that comes of it. A105, A209.
func TestCaddyfileAdapt(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			t.Parallel()
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, want, _ := strings.Cut(string(golden), "----------\n")
			out, err := adaptConfig(config)
			var got string
			if err != nil {
				got = err.Error()
			} else {
				var b bytes.Buffer
				if err := json.Indent(&b, out, "", "\t"); err != nil {
					t.Fatal(err)
				}
				got = b.String()
			}
			if isError := strings.HasPrefix(filepath.Base(file), "error_"); isError != (err != nil) {
				t.Fatalf("error is %v", err)
			}
			if err == nil && !bytes.Equal(caddyfile.Format([]byte(config)), []byte(config)) {
				t.Error("the Caddyfile is not formatted")
			}
			if *update {
				if err := os.WriteFile(file, []byte(config+"----------\n"+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != strings.TrimSpace(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// TestCaddyfileErrorsNamePlaceAndWord: every error says in which file, in which
// line, and what the word is.
func TestCaddyfileErrorsNamePlaceAndWord(t *testing.T) {
	t.Parallel()
	const base = "issuer https://as.example.com\nclient_id app\nclient_secret {env.S}\n"
	for name, tt := range map[string]struct {
		config string
		want   string // of the message
		line   string
	}{
		"unknown option":          {bffSite(base + "isuer x\n"), "unrecognized option 'isuer'", "Caddyfile:6"},
		"unknown in a block":      {bffSite(base + "session {\nidle 5m\n}\n"), "unrecognized option 'idle' of session", "Caddyfile:7"},
		"missing value":           {bffSite(base + "scope\n"), "scope needs at least one value", "Caddyfile:6"},
		"missing value, single":   {bffSite(base + "base_path\n"), "base_path needs a value", "Caddyfile:6"},
		"extra value":             {bffSite(base + "base_path /a /b\n"), "unexpected argument '/b' of base_path", "Caddyfile:6"},
		"repeated option":         {bffSite(base + "client_id b\n"), "client_id already specified", "Caddyfile:6"},
		"repeated in a block":     {bffSite(base + "session {\nlifetime 1h\nlifetime 2h\n}\n"), "session lifetime already specified", "Caddyfile:8"},
		"repeated block":          {bffSite(base + "session {\nlifetime 1h\n}\nsession {\nlifetime 2h\n}\n"), "session already specified", "Caddyfile:9"},
		"repeated value":          {bffSite(base + "scope openid openid\n"), "'openid' appears twice in scope", "Caddyfile:6"},
		"empty block":             {bffSite(base + "session {\n}\n"), "session needs a block with at least one option", "Caddyfile:"},
		"argument of a block":     {bffSite(base + "session 5m {\nlifetime 1h\n}\n"), "unexpected argument '5m' of session", "Caddyfile:6"},
		"wrong word":              {bffSite(base + "response_mode fragment\n"), "response_mode is \"fragment\", should be one of: query, form_post, jwt, query.jwt, form_post.jwt", "Caddyfile:6"},
		"wrong duration":          {bffSite(base + "http_timeout soon\n"), "http_timeout is \"soon\", should be a duration", "Caddyfile:6"},
		"zero duration":           {bffSite(base + "http_timeout 0s\n"), "http_timeout is \"0s\", should be a duration", "Caddyfile:6"},
		"rotation without":        {bffSite(base + "refresh {\nrotation grace\n}\n"), "refresh rotation grace needs a duration", "Caddyfile:7"},
		"rotation with":           {bffSite(base + "refresh {\nrotation none 5s\n}\n"), "refresh rotation none takes no duration", "Caddyfile:7"},
		"argument of bff":         {"localhost {\nbff /x /y {\n" + base + "}\n}\n", "unexpected argument '/y'", "Caddyfile:2"},
		"no issuer":               {bffSite("client_id app\nclient_auth none\n"), "bff needs an issuer", "Caddyfile:"},
		"no credential":           {bffSite("issuer https://as.example.com\nclient_id app\n"), "bff needs a client_secret, or client_auth none", "Caddyfile:"},
		"secret of a public one":  {bffSite(base + "client_auth none\n"), "client_auth none takes no client_secret", "Caddyfile:"},
		"authorization_param":     {bffSite(base + "authorization_param audience\n"), "authorization_param needs a name and a value", "Caddyfile:6"},
		"authorization_param age": {bffSite(base + "authorization_param max_age soon\n"), "authorization_param: max_age is not a number of seconds", "Caddyfile:6"},
		"authorization_param obj": {bffSite(base + "authorization_param claims email\n"), "authorization_param: claims is not a JSON object", "Caddyfile:6"},
		"csrf_header":             {bffSite(base + "csrf_header X-A\n"), "csrf_header needs a name and a value", "Caddyfile:6"},
		"resource: relative":      {bffSite(base + "resource /api\n"), "resource \"/api\" is not an absolute URI", "Caddyfile:6"},
		"resource: fragment":      {bffSite(base + "resource https://api.example.com https://a.example.com/#x\n"), "resource \"https://a.example.com/#x\" has a fragment", "Caddyfile:6"},
		"resource: no URI":        {bffSite(base + "resource \"https://a b\"\n"), "is not a URI", "Caddyfile:6"},
		"resource: repeated":      {bffSite(base + "resource https://a https://a\n"), "'https://a' appears twice in resource", "Caddyfile:6"},
		"par":                     {bffSite(base + "par on\n"), "par is \"on\", should be one of: auto, required, off", "Caddyfile:6"},
		"request_object":          {bffSite(base + "request_object on\n"), "request_object is \"on\", should be one of: auto, required, off", "Caddyfile:6"},
		"request_object, no key":  {bffSite(base + "request_object required\n"), "request_object required needs a key_file in client_auth", "Caddyfile:6"},
		"dpop":                    {bffSite(base + "dpop auto\n"), "dpop is \"auto\", should be one of: off, on", "Caddyfile:6"},
		"protect: dpop":           {"localhost {\nbff_protect {\ndpop\n}\n}\n", "unrecognized option 'dpop'", "Caddyfile:3"},
		"proxy: dpop on":          {"localhost {\nbff_proxy localhost:9 {\ndpop on\n}\n}\n", "unexpected argument 'on' of dpop", "Caddyfile:3"},
		"proxy: dpop, no token":   {"localhost {\nbff_proxy localhost:9 {\ntoken none\ndpop\n}\n}\n", "token none sends none", "Caddyfile:4"},
		"proxy: dpop, bearer":     {"localhost {\nbff_proxy localhost:9 {\ndpop\naccept_bearer\n}\n}\n", "dpop is for tokens with a key of ours", "Caddyfile:3"},
		"proxy: header_up DPoP":   {"localhost {\nbff_proxy localhost:9 {\nheader_up dpop x\n}\n}\n", "it carries the proof for the access token or nothing", "Caddyfile:3"},
		"logout backchannel":      {bffSite(base + "logout {\nbackchannel yes\n}\n"), "logout backchannel is \"yes\", should be one of: on, off", "Caddyfile:7"},
		"logout frontchannel":     {bffSite(base + "logout {\nfrontchannel\n}\n"), "logout frontchannel needs a value", "Caddyfile:7"},
		"userinfo":                {bffSite(base + "userinfo yes\n"), "userinfo is \"yes\", should be one of: off, on", "Caddyfile:6"},
		"access_token validate":   {bffSite(base + "access_token {\nvalidate opaque\n}\n"), "access_token validate is \"opaque\", should be one of: auto, jwt, introspection, expiry", "Caddyfile:7"},
		"protect: unknown":        {"localhost {\nbff_protect {\nrole admin\n}\n}\n", "unrecognized option 'role'", "Caddyfile:3"},
		"protect: token":          {"localhost {\nbff_protect {\ntoken none\n}\n}\n", "unrecognized option 'token'", "Caddyfile:3"},
		"protect: accept_bearer":  {"localhost {\nbff_protect {\naccept_bearer on\n}\n}\n", "unexpected argument 'on' of accept_bearer", "Caddyfile:3"},
		"proxy: exchanged bearer": {"localhost {\nbff_proxy localhost:9 {\naccept_bearer\nexchange {\naudience a\n}\n}\n}\n", "accept_bearer relays the token of the client as it is", "Caddyfile:3"},
		"protect: rule":           {"localhost {\nbff_protect {\nrequire role\n}\n}\n", "require needs a claim and at least one value", "Caddyfile:3"},
		"protect: repeated":       {"localhost {\nbff_protect {\ncsrf off\ncsrf auto\n}\n}\n", "csrf already specified", "Caddyfile:4"},
		"protect: wrong word":     {"localhost {\nbff_protect {\nunauthenticated 403\n}\n}\n", "unauthenticated is \"403\"", "Caddyfile:3"},
		"global: unknown":         {"{\nbff {\nredis x\n}\n}\n", "unrecognized option 'redis'", "Caddyfile:3"},
		"global: argument":        {"{\nbff on\n}\n", "unexpected argument 'on'", "Caddyfile:2"},
		"global: repeated":        {"{\nbff {\nkeys {env.A}\n}\nbff {\nkeys {env.B}\n}\n}\n", "bff already specified", "Caddyfile:5"},
		"global: repeated store":  {"{\nbff {\nstore memory\nstore file\n}\n}\n", "store already specified", "Caddyfile:4"},
		"global: no store":        {"{\nbff {\nstore\n}\n}\n", "store needs a name", "Caddyfile:3"},
		"global: unknown store":   {"{\nbff {\nstore etcd\n}\n}\n", "bff.stores.etcd", "Caddyfile:3"},
		"store: unknown option":   {"{\nbff {\nstore file {\nsize 3\n}\n}\n}\n", "unrecognized option 'size'", "Caddyfile:4"},
		"store: wrong number":     {"{\nbff {\nstore memory {\nmax_sessions none\n}\n}\n}\n", "max_sessions is \"none\", should be a number above zero", "Caddyfile:4"},
		"store: argument":         {"{\nbff {\nstore file /x\n}\n}\n", "unexpected argument '/x'", "Caddyfile:3"},
		"store: repeated option":  {"{\nbff {\nstore file {\npath /a\npath /b\n}\n}\n}\n", "path already specified", "Caddyfile:5"},
		"keys: none":              {"{\nbff {\nkeys\n}\n}\n", "keys needs a value", "Caddyfile:3"},
		"nested block of a value": {bffSite(base + "scope openid {\nx y\n}\n"), "unrecognized option '{'", "Caddyfile:6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := adaptConfig(tt.config)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.line) {
				t.Errorf("error %q, want %q at %s", err, tt.want, tt.line)
			}
		})
	}
}

func bffSite(options string) string { return "localhost {\nbff {\n" + options + "}\n}\n" }

// FuzzUnmarshalCaddyfile: whatever stands in the block, parsing ends, and does
// not panic. A209.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(goldenDir, "*.caddyfiletest"))
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil {
			config, _, _ := strings.Cut(string(b), "----------\n")
			f.Add(config)
		}
	}
	f.Add("bff {\nissuer a\nrefresh {\nrotation grace 1s\n}\n}")
	f.Add("bff_protect {\nrequire a b\n}")
	f.Add("bff_proxy {\nresource https://a\nscope b\nexchange {\naudience c\nrequested_token_type jwt\n}\n}")
	f.Fuzz(func(t *testing.T, config string) {
		for _, unmarshaler := range []caddyfile.Unmarshaler{new(Handler), new(Protect), &Protect{proxy: true}, new(App), new(FileStore), new(MemoryStore)} {
			if tokens, err := caddyfile.Tokenize([]byte(config), "Caddyfile"); err == nil {
				_ = unmarshaler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
			}
		}
	})
}
