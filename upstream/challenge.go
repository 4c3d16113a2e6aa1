// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/http"
	"strings"
)

// Bounds of what is parsed of one WWW-Authenticate field line. A resource
// server with more than that to say is not understood.
const (
	maxChallengeField = 64 << 10
	maxChallenges     = 64
	maxChallengeParam = 64
)

// Error codes of RFC 6750 section 3.1.
const (
	errorInvalidToken      = "invalid_token"
	errorInsufficientScope = "insufficient_scope"
)

// challenge is one challenge of a WWW-Authenticate field (RFC 9110 section
// 11.6.1).
type challenge struct {
	scheme string // as written
	params []challengeParam
	text   string // the challenge as written, without surrounding commas
}

type challengeParam struct{ name, value string }

// is reports whether the challenge has the given scheme (RFC 9110 section 11.1:
// case-insensitive).
func (c *challenge) is(scheme string) bool { return strings.EqualFold(c.scheme, scheme) }

// param returns the first parameter of that name (case-insensitive), unquoted.
func (c *challenge) param(name string) (string, bool) {
	for _, p := range c.params {
		if strings.EqualFold(p.name, name) {
			return p.value, true
		}
	}
	return "", false
}

// parseChallenges reads one field line. It returns what it understood up to the
// first thing that is not in the grammar, and whether that was all of it. Time
// and memory are linear in the length of the line.
//
// The grammar is a list of challenges whose parameters are a list too, with the
// same comma between both: after a comma, a token with "=" behind it is a
// parameter of the challenge under way, and any other token a new scheme.
func parseChallenges(field string) (challenges []challenge, whole bool) {
	if len(field) > maxChallengeField {
		return nil, false
	}
	s := scanner{text: field}
	s.separators()
	for !s.end() {
		if len(challenges) == maxChallenges {
			return challenges, false
		}
		start := s.pos
		c := challenge{scheme: s.token()}
		if c.scheme == "" {
			return challenges, false
		}
		stop := s.pos
		whole := true
		if s.spaces() > 0 && !s.end() && s.peek() != ',' {
			stop, whole = s.credentials(&c)
		} else if !s.end() && s.peek() != ',' {
			return challenges, false
		}
		c.text = strings.TrimRight(field[start:stop], " \t")
		challenges = append(challenges, c)
		if !whole {
			return challenges, false
		}
		s.separators()
	}
	return challenges, true
}

// credentials reads what follows the scheme: a token68, or parameters. It
// returns where the challenge ends.
func (s *scanner) credentials(c *challenge) (stop int, whole bool) {
	if s.token68() {
		stop = s.pos
		s.spaces()
		return stop, s.end() || s.peek() == ','
	}
	for {
		if len(c.params) == maxChallengeParam {
			return s.pos, false
		}
		p, ok := s.param()
		if !ok {
			return s.pos, false
		}
		c.params = append(c.params, p)
		stop = s.pos
		s.spaces()
		if s.end() {
			return stop, true
		}
		if s.peek() != ',' {
			return stop, false
		}
		s.separators()
		if !s.atParam() {
			return stop, true
		}
	}
}

// scanner walks over a field value.
type scanner struct {
	text string
	pos  int
}

func (s *scanner) end() bool  { return s.pos >= len(s.text) }
func (s *scanner) peek() byte { return s.text[s.pos] }

// spaces skips optional whitespace and returns how much there was.
func (s *scanner) spaces() int {
	start := s.pos
	for !s.end() && (s.peek() == ' ' || s.peek() == '\t') {
		s.pos++
	}
	return s.pos - start
}

// separators skips commas and whitespace: list elements may be empty (RFC 9110
// section 5.6.1).
func (s *scanner) separators() {
	for !s.end() && (s.peek() == ',' || s.peek() == ' ' || s.peek() == '\t') {
		s.pos++
	}
}

// token reads a token (RFC 9110 section 5.6.2), empty when there is none.
func (s *scanner) token() string {
	start := s.pos
	for !s.end() && isTokenByte(s.peek()) {
		s.pos++
	}
	return s.text[start:s.pos]
}

// token68 reads a token68 (RFC 9110 section 11.2) if what follows can be nothing
// else: it has to reach up to the next comma or the end.
func (s *scanner) token68() bool {
	start := s.pos
	for !s.end() && isToken68Byte(s.peek()) {
		s.pos++
	}
	if s.pos == start {
		return false
	}
	for !s.end() && s.peek() == '=' {
		s.pos++
	}
	stop := s.pos
	s.spaces()
	if s.end() || s.peek() == ',' {
		s.pos = stop
		return true
	}
	s.pos = start
	return false
}

// atParam reports whether a parameter follows, and moves nothing.
func (s *scanner) atParam() bool {
	ahead := *s
	if ahead.token() == "" {
		return false
	}
	ahead.spaces()
	return !ahead.end() && ahead.peek() == '='
}

// param reads name BWS "=" BWS ( token / quoted-string ).
func (s *scanner) param() (challengeParam, bool) {
	p := challengeParam{name: s.token()}
	if p.name == "" {
		return p, false
	}
	s.spaces()
	if s.end() || s.peek() != '=' {
		return p, false
	}
	s.pos++
	s.spaces()
	if s.end() {
		return p, false
	}
	if s.peek() == '"' {
		var ok bool
		p.value, ok = s.quoted()
		return p, ok
	}
	p.value = s.token()
	return p, p.value != ""
}

// quoted reads a quoted-string (RFC 9110 section 5.6.4) and unquotes it.
func (s *scanner) quoted() (string, bool) {
	s.pos++
	start := s.pos
	var unescaped []byte
	for ; !s.end(); s.pos++ {
		switch s.peek() {
		case '"':
			value := s.text[start:s.pos]
			s.pos++
			if unescaped != nil {
				return string(append(unescaped, value...)), true
			}
			return value, true
		case '\\':
			unescaped = append(unescaped, s.text[start:s.pos]...)
			s.pos++
			start = s.pos // the byte behind the backslash stands for itself
			if s.end() {
				return "", false
			}
		}
	}
	return "", false
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isToken68Byte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~+/", c) >= 0
}

// refused reports whether a 401 with header h says that the access token is to
// blame, as far as the grant wants it read that way.
func (g *Grant) refused(h http.Header) bool {
	var named, scope, proof bool
	for _, field := range h["Www-Authenticate"] {
		challenges, _ := parseChallenges(field)
		for i := range challenges {
			c := &challenges[i]
			if !c.is("Bearer") && !c.is("DPoP") {
				continue
			}
			switch code, ok := c.param("error"); {
			case code == errorInvalidToken:
				return true
			case code == errorInsufficientScope, code == errorInsufficientAuthentication:
				scope = true // a new token would be no better
			case code == errorUseNonce, code == errorInvalidProof:
				proof = true // of the token there is nothing said
			case ok:
				named = true
			}
		}
	}
	switch {
	case scope, proof:
		return false
	case g.HealAny401:
		return true
	default:
		return g.HealBare401 && !named
	}
}

// hidden reports whether a challenge is not for the browser: it would open
// a password dialogue that cannot succeed, or tell of the authorization server.
func (c *challenge) hidden() bool {
	return c.is("Bearer") || c.is("DPoP") || c.is("Basic") || c.is("Negotiate")
}

// stripChallenges removes the challenges that are not for the browser, and every
// field line that is not understood to its end.
func stripChallenges(h http.Header) {
	fields, ok := h["Www-Authenticate"]
	if !ok {
		return
	}
	var kept []string
	for _, field := range fields {
		challenges, whole := parseChallenges(field)
		if !whole {
			continue
		}
		var texts []string
		for i := range challenges {
			if !challenges[i].hidden() {
				texts = append(texts, challenges[i].text)
			}
		}
		switch {
		case len(texts) == len(challenges) && len(texts) > 0:
			kept = append(kept, field)
		case len(texts) > 0:
			kept = append(kept, strings.Join(texts, ", "))
		}
	}
	if len(kept) == 0 {
		delete(h, "Www-Authenticate")
		return
	}
	h["Www-Authenticate"] = kept
}
