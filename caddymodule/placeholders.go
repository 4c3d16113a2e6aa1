// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	placeholderUser    = "http.auth.user."
	placeholderSession = "http.bff.session.id"
	placeholderError   = "http.bff.error"
)

// user gives the placeholders of one request. Their values may be asked for
// until the access log is written, from whatever goroutine.
//
//	Placeholder | Description
//	------------|------------
//	`{http.auth.user.id}`      | subject of the session, or of that access token (the claim `sub`)
//	`{http.auth.user.<claim>}` | a claim of the ID token, or of the access token of a client without a session; a list is joined by commas
//	`{http.bff.session.id}`    | public handle of the session, never the cookie
//	`{http.bff.error}`         | code of the error that the gateway answered with
//
// All are empty where there is no session (or no error). None holds a token.
type user struct {
	session atomic.Pointer[identity]
	code    atomic.Pointer[string]
}

// identity is who sent the request: one of the two.
type identity struct {
	session *session.Session
	bearer  *session.Bearer
}

// id is the public handle of the session; a client without one has none.
func (i *identity) id() string {
	if i.session == nil {
		return ""
	}
	return i.session.ID()
}

func (i *identity) subject() string {
	if i.session == nil {
		return i.bearer.Subject()
	}
	return i.session.Subject()
}

func (i *identity) claims() map[string]any {
	if i.session == nil {
		return i.bearer.Claims()
	}
	return i.session.Claims()
}

// placeholder is a function of the request's replacer. What it gives is put
// into the text as it stands: braces in a claim are two characters of the claim.
func (u *user) placeholder(key string) (any, bool) {
	switch {
	case key == placeholderError:
		if code := u.code.Load(); code != nil {
			return *code, true
		}
		return "", true
	case key == placeholderSession:
		if id := u.session.Load(); id != nil {
			return id.id(), true
		}
		return "", true
	case strings.HasPrefix(key, placeholderUser):
		id := u.session.Load()
		if id == nil {
			return "", true
		}
		name := key[len(placeholderUser):]
		if name == "id" {
			return singleLine(id.subject()), true
		}
		return singleLine(claimText(id.claims()[name])), true
	}
	return nil, false
}

// claimText writes a claim for a header or a log: text as it is, a list joined
// by commas, anything deeper as JSON.
func claimText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		return v.String()
	case []string:
		return strings.Join(v, ",")
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = claimText(e)
		}
		return strings.Join(parts, ",")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// singleLine takes out what would end a header line or a log line.
func singleLine(s string) string {
	if !strings.ContainsFunc(s, lineControl) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if lineControl(r) {
			return -1
		}
		return r
	}, s)
}

func lineControl(r rune) bool { return r < ' ' || r == 0x7f }
