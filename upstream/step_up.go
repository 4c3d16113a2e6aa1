// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a resource server may ask for. What is longer, or has other
// characters than it may have, is not understood, and no part of it is used.
const (
	maxStepUpText = 512 // bytes of acr_values, and of scope
	maxStepUpList = 16  // values in each of them
)

// errorInsufficientAuthentication is the error code of RFC 9470 section 3.
const errorInsufficientAuthentication = "insufficient_user_authentication"

// StepUp is what a resource server says that it needs, beyond what the access token
// has. It was checked for its form alone: it is what the resource server says.
type StepUp struct {
	ACRValues []string       // one of these is needed as acr (RFC 9470 section 3), preferred first; nil: any
	MaxAge    *time.Duration // how long ago the end user may have authenticated; nil: any time
	Scope     []string       // needed (RFC 6750 section 3); nil: no more
}

// stepUp answers in place of a resource server that asks for a stronger, or a more
// recent, authentication, or for more scope. Nil: its own answer stands.
func (t *Transport) stepUp(g *Grant, req *http.Request, resp *http.Response) *http.Response {
	if g.StepUp == nil || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return nil
	}
	wanted, named := stepUpOf(resp.Header)
	if wanted == nil {
		if named {
			t.log(req.Context(), slog.LevelWarn, "upstream asks for a step-up in a way that is not understood; its answer is passed on")
		}
		return nil
	}
	answer := g.StepUp(*wanted)
	if answer == nil {
		return nil
	}
	keepAnswer(resp, req.Method) // read, so that its connection is of use again
	answer.Request = req
	return answer
}

// stepUpOf reads what a resource server asks for, from the first challenge that says
// it. named reports that there was one, be it understood or not.
func stepUpOf(h http.Header) (wanted *StepUp, named bool) {
	for _, field := range h["Www-Authenticate"] {
		challenges, whole := parseChallenges(field)
		for i := range challenges {
			c := &challenges[i]
			broken := !whole && i == len(challenges)-1 // it may have said more
			if !c.is("Bearer") && !c.is("DPoP") {
				continue
			}
			code, _ := c.param("error")
			if code != errorInsufficientAuthentication && code != errorInsufficientScope {
				continue
			}
			named = true
			if wanted := c.stepUp(code); wanted != nil && !broken {
				return wanted, true
			}
		}
	}
	return nil, named
}

// stepUp reads the parameters of a challenge with that error code. Nil: one of them
// is not what it should be, or is there twice, or nothing says what is needed.
func (c *challenge) stepUp(code string) *StepUp {
	var (
		s    StepUp
		seen []string
		ok   = true
	)
	for _, p := range c.params {
		name := strings.ToLower(p.name)
		switch name {
		case "acr_values":
			s.ACRValues, ok = stepUpList(p.value)
		case "scope":
			s.Scope, ok = stepUpList(p.value)
		case "max_age":
			s.MaxAge, ok = stepUpAge(p.value)
		case "error":
		default:
			continue
		}
		if !ok || slices.Contains(seen, name) {
			return nil
		}
		seen = append(seen, name)
	}
	if code == errorInsufficientAuthentication && s.ACRValues == nil && s.MaxAge == nil || code == errorInsufficientScope && s.Scope == nil {
		return nil
	}
	return &s
}

// stepUpList reads a list of words as RFC 6749 section 3.3 has them: visible ASCII
// but for the quote and the backslash, one space between two. Neither a control
// character nor what is not ASCII can get any further.
func stepUpList(text string) ([]string, bool) {
	if text == "" || len(text) > maxStepUpText {
		return nil, false
	}
	var words []string
	for word := range strings.SplitSeq(text, " ") {
		if word == "" {
			return nil, false
		}
		for j := range len(word) {
			if c := word[j]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
				return nil, false
			}
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words, len(words) <= maxStepUpList
}

// stepUpAge reads a number of seconds: digits and nothing else.
func stepUpAge(text string) (*time.Duration, bool) {
	if strings.Trim(text, "0123456789") != "" {
		return nil, false
	}
	seconds, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return nil, false
	}
	age := time.Duration(seconds) * time.Second
	return &age, true
}
