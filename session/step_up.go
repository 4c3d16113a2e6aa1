// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// maxSteps is how many step-ups a session remembers that it has been through.
	maxSteps = 4
	// stepUpPause is how long what a step-up has just brought is not asked for again,
	// however short the max_age.
	stepUpPause = time.Minute
	// maxFurtherScope bounds the scope that a session has been given beside the
	// configured one, in bytes; that which was asked for last stays.
	maxFurtherScope = 1024
	// maxStepUpRequest bounds a sealed step-up request, in bytes.
	maxStepUpRequest = 3000
)

// ErrSteppedUp says that the session came of a login that asked what is asked for
// now, and has it: another login would bring no more.
var ErrSteppedUp = errors.New("the session has been stepped up for this already")

// StepUp is what a resource server asks for beyond what a session has (RFC 9470
// section 3, RFC 6750 section 3.1). Whoever makes one has checked its form.
type StepUp struct {
	ACRValues []string       // one of these is needed as acr; nil: any
	MaxAge    *time.Duration // how long ago the end user may have authenticated; nil: any time
	Scope     []string       // needed; nil: no more
}

// Params are the parameters of an authorization request that asks for the
// authentication.
func (u *StepUp) Params() url.Values {
	params := url.Values{}
	if len(u.ACRValues) > 0 {
		params.Set("acr_values", strings.Join(u.ACRValues, " "))
	}
	if u.MaxAge != nil {
		params.Set("max_age", strconv.FormatInt(int64(*u.MaxAge/time.Second), 10))
	}
	return params
}

// covers reports that whoever has what u asks for has what other asks for too, but
// for the time that passes.
func (u *StepUp) covers(other *StepUp) bool {
	if len(other.ACRValues) > 0 && (len(u.ACRValues) == 0 || !contains(other.ACRValues, u.ACRValues)) {
		return false
	}
	if other.MaxAge != nil && (u.MaxAge == nil || *u.MaxAge > *other.MaxAge) {
		return false
	}
	return contains(u.Scope, other.Scope)
}

// contains reports that all of some are in set.
func contains(set, some []string) bool {
	return !slices.ContainsFunc(some, func(v string) bool { return !slices.Contains(set, v) })
}

// union gives first, and what others has beside it.
func union(first, others []string) []string {
	all := slices.Clone(first)
	for _, v := range others {
		if !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}

// step is a step-up that a session has been through.
type step struct {
	StepUp
	at time.Time
}

type stepWire struct {
	ACRValues []string `json:"acr,omitempty"`
	MaxAge    *int64   `json:"max_age,omitempty"` // seconds
	Scope     []string `json:"scope,omitempty"`
	At        int64    `json:"t"` // unix milliseconds
}

func (u *StepUp) wire(at time.Time) stepWire {
	w := stepWire{ACRValues: u.ACRValues, Scope: u.Scope, At: milliseconds(at)}
	if u.MaxAge != nil {
		seconds := int64(*u.MaxAge / time.Second)
		w.MaxAge = &seconds
	}
	return w
}

func (w stepWire) step() step {
	s := step{StepUp: StepUp{ACRValues: w.ACRValues, Scope: w.Scope}, at: fromMilliseconds(w.At)}
	if w.MaxAge != nil {
		age := time.Duration(*w.MaxAge) * time.Second
		s.MaxAge = &age
	}
	return s
}

// steppedUp reports that the session came of a login that asked what u asks, and has
// it still: who is not content with that would not be with another one either. The end
// user may have authenticated long before the login told so.
func (o *opened) steppedUp(u *StepUp, now time.Time) bool {
	t, authenticated := o.tokens, o.facts.authTime
	acr, _ := t.claims["acr"].(string)
	if len(u.ACRValues) > 0 && !slices.Contains(u.ACRValues, acr) || t.scope != nil && !contains(t.scope, u.Scope) {
		return false
	}
	return slices.ContainsFunc(t.steps, func(s step) bool {
		if u.MaxAge == nil || now.Sub(s.at) < stepUpPause {
			return s.covers(u)
		}
		since := s.at
		if !authenticated.IsZero() && authenticated.Before(since) {
			since = authenticated
		}
		return s.covers(u) && now.Sub(since) < *u.MaxAge
	})
}

// stepUpPurpose binds a sealed request to the site and to the one session whose
// request the resource server refused.
func (s *Session) stepUpPurpose() purpose {
	return purpose{kind: "step-up", salt: s.key[:], bound: bind(string(s.site.id[:]), string(s.key[:]))}
}

// SealStepUp makes the request for a login that brings what a resource server asks
// for: sealed, since nobody but a resource server of this site may have a user asked
// for scope, and good for this session alone, for ten minutes. It fails with
// [ErrSteppedUp] where such a login has just been.
func (s *Session) SealStepUp(ctx context.Context, u *StepUp) (string, error) {
	now := time.Now()
	if s.seen.Load().steppedUp(u, now) {
		return "", ErrSteppedUp
	}
	r, err := s.m.cfg.Ring.current(ctx)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(u.wire(now))
	if err != nil {
		return "", fmt.Errorf("encoding a step-up request: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(r.seal(s.stepUpPurpose(), plain)), nil
}

// OpenStepUp gives what [Session.SealStepUp] sealed for this session. Nil is for
// everything else: made up, for another session, too old, or too late, because the
// session has been stepped up since.
func (s *Session) OpenStepUp(ctx context.Context, request string) (*StepUp, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(request)
	if err != nil || len(request) > maxStepUpRequest {
		return nil, nil
	}
	plain, err := s.m.cfg.Ring.open(ctx, s.stepUpPurpose(), sealed)
	if err != nil || plain == nil {
		return nil, err
	}
	var w stepWire
	if json.Unmarshal(plain, &w) != nil {
		return nil, nil
	}
	asked := w.step()
	if age := time.Since(asked.at); age > loginLifetime || age < -time.Minute {
		return nil, nil
	}
	return &asked.StepUp, nil
}

// stepUp has a login that is about to begin ask for what a resource server needs, and
// gives the parameters that go on to the authorization server. A max_age that the
// configuration, or the browser, asks for stays if it is shorter; acr values, also an
// essential acr of claims, give way to those that are needed now.
func (m *Manager) stepUp(l *loginState, req *LoginRequest, asked oauth.Authentication) (url.Values, error) {
	l.wanted, l.further = req.StepUp, req.Previous.seen.Load().tokens.further
	params := url.Values{}
	maps.Copy(params, req.Params)
	strict := *req.StepUp
	if asked.MaxAge != nil && (strict.MaxAge == nil || *asked.MaxAge < *strict.MaxAge) {
		strict.MaxAge = asked.MaxAge
	}
	l.maxAge = strict.MaxAge
	if len(strict.ACRValues) > 0 {
		l.acrValues = strict.ACRValues
		claims, err := m.cfg.Client.ClaimsWithACR(params, strict.ACRValues)
		if err != nil {
			return nil, err
		}
		if claims != "" {
			params.Set("claims", claims)
		}
	}
	maps.Copy(params, strict.Params())
	return params, nil
}

// scope is what the login asks for beside the configured scope.
func (l *loginState) scope() []string {
	if l.wanted == nil {
		return nil
	}
	all, size := union(l.wanted.Scope, l.further), 0
	for i, token := range all {
		if size += len(token) + 1; size > maxFurtherScope {
			return all[:i]
		}
	}
	return all
}

// errScope: the answer to a step-up has not got the scope.
var errScope = errors.New("the authorization server has not granted the scope that was asked for")

// granted checks the scope of the answer to a login; nil is as asked.
func (l *loginState) granted(scope []string) error {
	if l.wanted != nil && scope != nil && !contains(scope, l.wanted.Scope) {
		return errScope
	}
	return nil
}

// stepped notes in the tokens of a login what it has brought, and what the sessions
// had brought that it continues, as far as the scope of that was asked for again: it is
// not where two step-ups were under way, or where it had grown too long.
func (t *tokens) stepped(l *loginState, before *tokens, now time.Time) {
	t.further = slices.DeleteFunc(l.scope(), func(token string) bool { return t.scope != nil && !slices.Contains(t.scope, token) })
	t.steps = []step{{StepUp: StepUp{ACRValues: l.wanted.ACRValues, MaxAge: l.maxAge, Scope: l.wanted.Scope}, at: now}}
	if before == nil {
		return
	}
	for _, s := range before.steps {
		if len(t.steps) < maxSteps && contains(t.further, s.Scope) {
			t.steps = append(t.steps, s)
		}
	}
}
