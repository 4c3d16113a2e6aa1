// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestAuthenticationAsked(t *testing.T) { // AR-09
	t.Parallel()
	const essential = `{"id_token":{"acr":{"essential":true,"values":["gold","silver"]},"email":null}}`
	for name, tc := range map[string]struct {
		configured, request url.Values
		maxAge              int // seconds; -1: none
		acr                 []string
	}{
		"nothing":                 {nil, nil, -1, nil},
		"configured":              {url.Values{"max_age": {"60"}, "acr_values": {"a b"}}, nil, 60, []string{"a", "b"}},
		"the request wins":        {url.Values{"max_age": {"60"}, "acr_values": {"a b"}}, url.Values{"max_age": {"0"}, "acr_values": {"c"}}, 0, []string{"c"}},
		"one of each":             {url.Values{"max_age": {"60"}}, url.Values{"acr_values": {"c"}}, 60, []string{"c"}},
		"claims":                  {url.Values{"claims": {essential}, "acr_values": {"a"}}, nil, -1, []string{"gold", "silver"}},
		"claims, one value":       {nil, url.Values{"claims": {`{"id_token":{"acr":{"essential":true,"value":"gold"}}}`}}, -1, []string{"gold"}},
		"claims, voluntary":       {nil, url.Values{"claims": {`{"id_token":{"acr":{"values":["gold"]}}}`}, "acr_values": {"a"}}, -1, []string{"a"}},
		"claims, acr null":        {nil, url.Values{"claims": {`{"id_token":{"acr":null}}`}}, -1, nil},
		"claims, essential alone": {nil, url.Values{"claims": {`{"id_token":{"acr":{"essential":true}}}`}}, -1, nil},
		"not readable":            {nil, url.Values{"claims": {"x"}, "max_age": {"-1"}}, -1, nil},
	} {
		c := newClient(t, astest.New(astest.Options{}), func(cfg *Config) { cfg.Params = tc.configured })
		a := c.AuthenticationAsked(tc.request)
		maxAge := -1
		if a.MaxAge != nil {
			maxAge = int(*a.MaxAge / time.Second)
		}
		if maxAge != tc.maxAge || !slices.Equal(a.ACRValues, tc.acr) {
			t.Errorf("%s: %d, %q", name, maxAge, a.ACRValues)
		}
	}
	for value, ok := range map[string]bool{
		"max_age=0": true, "max_age=3600": true, "max_age=-1": false, "max_age=1.5": false, "max_age=x": false, "max_age=99999999999": false,
		"claims={}": true, "claims=" + essential: true, "claims=[]": false, "claims=null": false, "claims=x": false, `claims={"id_token":1}`: false,
		`claims={"id_token":{"acr":{"values":1}}}`: false, "prompt=x": true,
	} {
		name, text, _ := strings.Cut(value, "=")
		if err := CheckAuthenticationParam(name, text); (err == nil) != ok {
			t.Errorf("%s: %v", value, err)
		}
	}
}
