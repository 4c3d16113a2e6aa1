// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// configSecret is a secret as the configuration gives it: a literal, or
// placeholders such as {env.X} and {file./path}. The configuration that Caddy
// shows and saves holds what was written there, never what it stands for.
type configSecret struct {
	option string // for messages
	raw    string

	mu   sync.Mutex
	last oauth.Secret
}

// newConfigSecret resolves raw once, so that an empty or missing secret is an
// error of the configuration.
func newConfigSecret(option, raw string) (*configSecret, error) {
	if err := checkSecretText(option, raw); err != nil {
		return nil, err
	}
	s := &configSecret{option: option, raw: raw}
	v, err := s.resolve()
	if err != nil {
		return nil, err
	}
	s.last = v
	return s, nil
}

// checkSecretText finds what is wrong with a secret as it was written, before
// any placeholder is looked up.
func checkSecretText(option, raw string) error {
	switch {
	case strings.TrimSpace(raw) == "":
		return wrong(option, "%s is empty", option)
	case strings.Contains(raw, "{http."):
		// The Caddyfile's short forms, {host} for instance, have become one of these.
		return wrong(option, "%s has a placeholder that only requests have; if these braces are part of the secret, keep it in a file or a variable", option)
	}
	return nil
}

// literal reports whether the secret itself stands in the configuration.
func (s *configSecret) literal() bool {
	return !strings.Contains(s.raw, "{env.") && !strings.Contains(s.raw, "{file.")
}

// value gives the secret as it is now: files are read each time, which costs
// little beside the call that the secret is for, and nobody waits for a changed
// file to be noticed. A file that cannot be read at the moment (it is being
// replaced) leaves the last good value in force.
func (s *configSecret) value() (oauth.Secret, error) {
	v, err := s.resolve()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.last, nil
	}
	s.last = v
	return v, nil
}

// unset stands for the value of a placeholder that has none. It is in no file
// or variable that anybody would write.
const unset = "\x00unset\x00"

// resolve replaces the placeholders that are known. Other braces are characters
// of the secret, and no message says anything of it but a placeholder that is
// all there is.
func (s *configSecret) resolve() (oauth.Secret, error) {
	v := caddy.NewReplacer().ReplaceKnown(s.raw, unset)
	switch {
	case strings.Contains(v, unset) && wholePlaceholder(s.raw):
		return "", wrong(s.option, "%s is empty: %s is not set, or cannot be read", s.option, s.raw)
	case strings.Contains(v, unset):
		return "", wrong(s.option, "%s has a placeholder that is not set, or cannot be read", s.option)
	case strings.TrimSpace(v) == "":
		return "", wrong(s.option, "%s is empty", s.option)
	}
	return oauth.Secret(v), nil
}

// wholePlaceholder reports a text that is one placeholder of a variable or file,
// and nothing more.
func wholePlaceholder(raw string) bool {
	inner, ok := strings.CutSuffix(raw, "}")
	return ok && (strings.HasPrefix(inner, "{env.") || strings.HasPrefix(inner, "{file.")) && !strings.ContainsAny(inner[1:], "{}")
}
