// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// block writes a bff of some client.
func block(matcher, client string, options ...string) string {
	return "bff " + matcher + " {\nissuer https://as.example.com\nclient_id " + client + "\nclient_auth none\n" + strings.Join(options, "\n") + "\n}\n"
}

// Two bff that run on the same requests with the same endpoints, and guards
// without a bff, are errors of the configuration, which name them and the site.
// AR-13.
func TestPlacementErrors(t *testing.T) {
	two := []string{"site app.example.com: two bff handle the same requests", "client_id one", "client_id two"}
	proxy := []string{"site app.example.com: bff_proxy has no bff that handles its requests before it"}
	protect := []string{"site app.example.com: bff_protect has no bff that handles its requests before it"}
	for name, tt := range map[string]struct {
		config string
		want   []string
	}{
		"twice":                      {siteBlock("app", block("", "one")+block("", "two")), two},
		"the same twice":             {siteBlock("app", block("", "one", "name two")+block("", "one")), []string{"two bff"}},
		"in a route block":           {siteBlock("app", "route {\n"+block("", "one")+block("", "two")+"bff_proxy localhost:9\n}\n"), two},
		"a matcher beside":           {siteBlock("app", "@adm path /adm/*\n"+block("@adm", "one")+block("", "two")+"bff_proxy localhost:9\n"), two},
		"a host beside":              {siteBlock("app", "@adm host adm.example.com\n"+block("@adm", "one")+block("", "two")), two},
		"the same matcher":           {siteBlock("app", "@adm path /adm/*\n"+block("@adm", "one")+block("@adm", "two")), two},
		"nested in handle":           {siteBlock("app", block("", "one")+"handle /adm/* {\n"+block("", "two")+"bff_proxy localhost:9\n}\n"), two},
		"nested twice":               {siteBlock("app", "handle /a/* {\n"+block("", "one")+"handle /a/b/* {\n"+block("", "two")+"}\n}\n"), two},
		"behind something":           {siteBlock("app", "route {\n"+block("", "one")+"header X-A b\n"+block("/x/*", "two")+"}\n"), two},
		"below the other":            {siteBlock("app", block("", "one")+"handle /adm/* {\n"+block("", "two", "base_path /bff/adm")+"}\n"), two},
		"above the other":            {siteBlock("app", block("", "one", "base_path /bff/adm")+"handle {\n"+block("", "two")+"}\n"), two},
		"by a named route":           {"&(auth) {\n" + block("", "two") + "}\n" + siteBlock("app", "route {\n"+block("", "one")+"invoke auth\n}\n"), two},
		"by a snippet":               {"(auth) {\n" + block("", "one") + "}\n" + siteBlock("app", "import auth\n"+block("", "two")), two},
		"in handle_errors":           {siteBlock("app", block("", "zero")+"handle_errors {\n"+block("", "one")+block("", "two")+"respond x\n}\n"), two},
		"proxy without":              {siteBlock("app", "bff_proxy localhost:9\n"), proxy},
		"protect without":            {siteBlock("app", "handle /x {\nbff_protect\nrespond x\n}\n"), protect},
		"protect of another site":    {siteBlock("other", block("", "one")+"bff_protect\n") + siteBlock("app", "bff_protect\n"), protect},
		"protect of another site, 2": {siteBlock("app", "bff_protect\n") + siteBlock("other", block("", "one")+"bff_protect\n"), protect},
		"protect of another handle":  {siteBlock("app", "handle /a/* {\n"+block("", "one")+"}\nhandle {\nbff_protect\n}\n"), protect},
		"protect before":             {siteBlock("app", "route {\nbff_protect\n"+block("", "one")+"}\n"), protect},
		"protect in handle_errors":   {siteBlock("app", "handle_errors {\nbff_protect\nrespond x\n}\n"), protect},
		"again in handle_errors":     {siteBlock("app", block("", "one")+"handle_errors {\n"+block("", "one")+"bff_protect\nrespond x\n}\n"), []string{"handle_errors has another bff"}},
	} {
		err := validate(t, string(adaptTB(t, tt.config)))
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			}
		}
	}
}

// What is legitimate: applications apart by site, by handle, by matcher, or by
// endpoints.
func TestPlacements(t *testing.T) {
	for name, config := range map[string]string{
		"two sites":             siteBlock("app", block("", "one")+"bff_proxy localhost:9\n") + siteBlock("adm", block("", "two")+"bff_proxy localhost:9\n"),
		"a plain site":          siteBlock("app", block("", "one")+"bff_proxy localhost:9\n") + siteBlock("adm", "respond x\n"),
		"handle":                siteBlock("app", "handle /a/* {\n"+block("", "one", "base_path /a/bff", "name a")+"bff_proxy localhost:9\n}\nhandle {\n"+block("", "two")+"bff_proxy localhost:9\n}\n"),
		"handle, same endpoint": siteBlock("app, adm", "@adm host adm.example.com\nhandle @adm {\n"+block("", "one")+"}\nhandle {\n"+block("", "two")+"}\n"),
		"matchers":              siteBlock("app, adm", "@a host app.example.com\n@b host adm.example.com\n"+block("@a", "one")+block("@b", "two")+"bff_proxy localhost:9\n"),
		"endpoints":             siteBlock("app", block("", "one")+"handle /adm/* {\n"+block("", "two", "base_path /adm/bff", "name adm")+"bff_proxy localhost:9\n}\n"),
		"alike":                 siteBlock("app", block("", "one")+"handle /x/* {\n"+block("", "two", "base_path /bffx")+"}\n"),
		"by hand": siteBlock("app, adm", "route {\n@adm host adm.example.com\n"+block("@adm", "one")+"bff_proxy @adm localhost:9\n"+
			block("", "two")+"bff_proxy localhost:9\n}\n"),
		"named route":            "&(auth) {\n" + block("", "one") + "}\n" + siteBlock("app", "route {\ninvoke auth\nbff_proxy localhost:9\n}\n"),
		"named guard":            "&(guard) {\nbff_proxy localhost:9\n}\n" + siteBlock("app", block("", "one")+"route {\ninvoke guard\n}\n"),
		"guard of a matcher":     siteBlock("app", block("/x/*", "one", "base_path /x/bff")+"bff_protect /x/*\nrespond x\n"),
		"guard in handle_errors": siteBlock("app", block("", "one")+"handle_errors {\nbff_protect\nrespond x\n}\n"),
		"in handle_errors":       siteBlock("app", "handle_errors {\n"+block("", "one")+"bff_protect\nrespond x\n}\n"),
		"in handle_response":     siteBlock("app", block("", "one")+"reverse_proxy localhost:9 {\n@x status 404\nhandle_response @x {\nbff_protect\nrespond x\n}\n}\n"),
		"in handle_response2":    siteBlock("app", "reverse_proxy localhost:9 {\n@x status 404\nhandle_response @x {\n"+block("", "one")+"}\n@y status 403\nhandle_response @y {\n"+block("", "two")+"}\n}\n"),
	} {
		if err := validate(t, string(adaptTB(t, config))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Routes as only JSON has them: no site around, Caddy has loaded the first
	// one when the second is looked at.
	const bff = `{"handler":"bff","issuer":"https://as.example.com","client_id":"one","client_auth":"none"}`
	for routes, ok := range map[string]bool{
		`[{"handle":[{"handler":"invoke","name":"x"}]},{"handle":[{"handler":"bff_protect"}]}],"named_routes":{"x":{"handle":[` + bff + `]}}`: true,
		`[{"handle":[` + bff + `]},{"handle":[{"handler":"bff_protect"}]}]`:                                                                   true,
		`[{"handle":[` + bff + `],"terminal":true},{"handle":[{"handler":"bff_protect"}]}]`:                                                   false,
		`[{"handle":[` + bff + `],"group":"g"},{"handle":[{"handler":"bff_protect"}],"group":"g"}]`:                                           false,
		`[{"handle":[{"handler":"invoke","name":"x"}]}],"named_routes":{"x":{"handle":[{"handler":"invoke","name":"x"},` + bff + `]}}`:        true,
	} {
		err := validate(t, `{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":`+routes+`}}}}}`)
		if (err == nil) != ok {
			t.Errorf("%s: %v", routes, err)
		}
	}
}

// Where only the request can tell that two bff run on it, it is answered with an
// error, once explained in the log, and not with one login after another. AR-13.
func TestNestedByMatchers(t *testing.T) {
	b := newBench(t, benchOptions{bff: "base_path /other", site: `
		@a path /a* /both* /bff/*
		@b path /b*
		bff @a {
			issuer https://one.example.com
			client_id one
			client_auth none
			name one
		}
		bff @b {
			issuer https://two.example.com
			client_id two
			client_auth none
			name two
		}
		bff_protect /both*
		respond "x"
	`})
	c := b.browser()
	for range 3 {
		a := c.get("/both", navigate...)
		a.wantError(t, http.StatusInternalServerError, codeMisconfigured)
		if a.location() != "" || !strings.Contains(a.body, "not set up correctly") {
			t.Errorf("Location %q: %s", a.location(), a.body)
		}
	}
	if a := c.get("/both", script...); a.json(t)["code"] != codeMisconfigured {
		t.Error(a.body)
	}
	if a := c.get("/a", navigate...); a.StatusCode != http.StatusOK {
		t.Errorf("status %d", a.StatusCode)
	}
	log := b.log()
	if n := strings.Count(log, "two bff handle the same request, and the first"); n != 1 || !strings.Contains(log, "client_id one") || !strings.Contains(log, "client_id two") {
		t.Errorf("said %d times: %s", n, lineWith(log, "two bff"))
	}
}

// Applications of one site that write the same cookie: said once, since their
// users are signed out by each other.
func TestSharedCookieWarns(t *testing.T) {
	logFile := filepath.Join(t.TempDir(), "log")
	for _, tt := range []struct {
		first, second string
		warned        bool
	}{
		{block("", "one", "base_path /a/bff"), block("", "two"), true},
		{block("", "one", "base_path /a/bff", "name a"), block("", "two"), false},
		{block("", "one", "base_path /a/bff"), block("", "one"), false},
	} {
		if err := os.RemoveAll(logFile); err != nil {
			t.Fatal(err)
		}
		config := fmt.Sprintf("{\nlog {\noutput file %s\n}\n}\n", logFile) + siteBlock("app", "handle /a/* {\n"+tt.first+"}\nhandle {\n"+tt.second+"}\n")
		if err := validate(t, string(adaptTB(t, config))); err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(logFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if got := strings.Contains(string(log), "have the same session cookie"); got != tt.warned {
			t.Errorf("%s%s: warned: %v: %s", tt.first, tt.second, got, log)
		}
	}
}

// A site on plain http works on loopback, and says once what it is good for.
func TestPlainHTTPWarnsOnce(t *testing.T) {
	const text = "plain http on loopback is for development only"
	for option, atStart := range map[string]int{"": 0, "public_origin http://localhost:8080": 1} {
		b := newBench(t, benchOptions{bff: option})
		if n := strings.Count(b.log(), text); n != atStart {
			t.Errorf("%q: said %d times at the start, want %d", option, n, atStart)
		}
		c := b.browser()
		for range 3 {
			c.get("/", navigate...)
		}
		if n := strings.Count(b.log(), text); n != 1 {
			t.Errorf("%q: said %d times, want once", option, n)
		}
	}
	// By https, in the end: nothing to warn of.
	b := newBench(t, benchOptions{bff: "public_origin https://app.example.com"})
	b.browser().get("/bff/session", script...)
	if log := b.log(); strings.Contains(log, text) {
		t.Error(lineWith(log, text))
	}
}

func siteBlock(hosts, routes string) string {
	var addresses []string
	for _, h := range strings.Split(hosts, ", ") {
		addresses = append(addresses, h+".example.com")
	}
	return strings.Join(addresses, ", ") + " {\n" + routes + "}\n"
}
