// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	maxParamBody  = 64 << 10 // a form_post response with its state and code, and more
	maxParamValue = 1024     // a parameter that is passed on to the authorization server
)

func badParameter(text string) error {
	return &httpError{code: codeInvalidParameter, err: errors.New(text)}
}

// queryParams reads the query of the address that the browser asked for.
func (hd *handle) queryParams() (url.Values, error) {
	q, err := url.ParseQuery(hd.query)
	if err != nil {
		return nil, badParameter("malformed query") // the parser's message quotes it
	}
	return q, nil
}

// bodyParams reads the parameters of a body, a form or a JSON object of texts,
// and adds those of the query.
func (hd *handle) bodyParams(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	params, err := hd.queryParams()
	if err != nil {
		return nil, err
	}
	body, err := readBody(w, r, maxParamBody)
	if err != nil || len(body) == 0 {
		return params, err
	}
	more, err := parseBody(r, body)
	if err != nil {
		return nil, err
	}
	for name, values := range more {
		params[name] = append(params[name], values...)
	}
	return params, nil
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &httpError{code: codeBodyTooLarge}
	case err != nil:
		return nil, badParameter("the body cannot be read")
	}
	return body, nil
}

func parseBody(r *http.Request, body []byte) (url.Values, error) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch mediaType {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, badParameter("malformed form")
		}
		return form, nil
	case "application/json":
		var object map[string]any
		if err := json.Unmarshal(body, &object); err != nil {
			return nil, badParameter("malformed JSON")
		}
		values := make(url.Values, len(object))
		for name, v := range object {
			switch v := v.(type) {
			case nil:
			case string:
				values.Set(name, v)
			case bool, float64:
				values.Set(name, claimText(v))
			default:
				return nil, badParameter("a member of the JSON object is not a text")
			}
		}
		return values, nil
	}
	return nil, badParameter("the body is neither a form nor JSON")
}

// formBody reports a body as HTML forms send it.
func formBody(r *http.Request) bool {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return mediaType == "application/x-www-form-urlencoded"
}

// oneParam gives a parameter that may be given once.
func oneParam(params url.Values, name string) (string, error) {
	switch v := params[name]; len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	}
	return "", badParameter(name + " is given more than once")
}

// returnParams are the names of the return URL: ours, and those that other
// products taught applications.
var returnParams = []string{"return_to", "returnUrl", "returnTo", "rd"}

// returnTo reads and checks the return URL. Without one it is the default.
func (hd *handle) returnTo(params url.Values, byDefault string) (string, error) {
	raw, given := "", false
	for _, name := range returnParams {
		v, err := oneParam(params, name)
		if err != nil {
			return "", err
		}
		if !params.Has(name) {
			continue
		}
		if given {
			return "", badParameter("the return URL is given more than once")
		}
		raw, given = v, true
	}
	if !given {
		return byDefault, nil
	}
	return hd.bff.returnURLs.Parse(raw)
}

// notGraphic covers control characters and those that are not seen.
func notGraphic(r rune) bool { return !unicode.IsGraphic(r) }

// A return URL that is accepted is one that a login can carry.
var _ [session.MaxReturnTo - returnurl.MaxBytes]struct{}

// passOn picks the parameters that go on to the authorization server.
func (h *Handler) passOn(params url.Values) (url.Values, error) {
	out := make(url.Values)
	for _, name := range h.LoginParam {
		v, err := oneParam(params, name)
		if err != nil {
			return nil, err
		}
		if len(v) > maxParamValue || !utf8.ValidString(v) || strings.ContainsFunc(v, notGraphic) {
			return nil, badParameter(name + " is not acceptable")
		}
		if strings.TrimSpace(v) != "" { // a list of nothing would take the place of the configured one
			out.Set(name, v)
		}
	}
	for name := range out {
		if err := oauth.CheckAuthenticationParam(name, out.Get(name)); err != nil {
			return nil, badParameter(err.Error())
		}
	}
	return out, nil
}
