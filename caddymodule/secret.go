// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
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
	s := &configSecret{option: option, raw: raw}
	v, err := s.resolve()
	if err != nil {
		return nil, err
	}
	s.last = v
	return s, nil
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

func (s *configSecret) resolve() (oauth.Secret, error) {
	v, err := caddy.NewReplacer().ReplaceOrErr(s.raw, true, true)
	if err != nil {
		// The replacer's message names the placeholder, never its value.
		return "", fmt.Errorf("%s: %w", s.option, err)
	}
	if strings.TrimSpace(v) == "" {
		return "", fmt.Errorf("%s is empty", s.option)
	}
	return oauth.Secret(v), nil
}
