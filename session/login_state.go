// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// loginLifetime is how long a login may take.
	loginLifetime = 10 * time.Minute
	// maxLogins is how many logins a browser may have under way; the oldest
	// makes room.
	maxLogins = 5
	// maxLoginCookie bounds a login cookie's value, in bytes.
	maxLoginCookie = 4000
	// MaxReturnTo bounds the return URL of a login, in bytes.
	MaxReturnTo = 2048
)

// loginState is a login under way. The server keeps nothing of it: it is sealed
// into a cookie of the browser that began it, so that no other browser can end
// it (RFC 6749 section 10.12).
type loginState struct {
	state, nonce, verifier oauth.Secret
	returnTo               string
	created                time.Time
	restarted              bool           // a stale login that was begun anew: not a second time
	previous               *ticket        // the session that login saw, to be ended
	mode                   string         // response mode of the request; "" is query
	maxAge                 *time.Duration // what was asked of the end user's authentication
	acrValues              []string
	wanted                 *StepUp        // what a resource server asks for; nil: it is no step-up
	prompt                 string         // the prompt parameter that it came with; "none" asks not to involve the user
	further                []string       // scope that the session has beside the configured one
	key                    *oauth.DPoPKey // that the tokens are to be bound to; nil: to none
}

// posted says whether the response is to come as a form, and not in the address.
func (l *loginState) posted() bool {
	return l.mode == oauth.ResponseModeFormPost || l.mode == oauth.ResponseModeFormPostJWT
}

// silent says whether it asked not to involve the user.
func (l *loginState) silent() bool { return l.prompt == "none" }

// authentication gives the parameters of a login that asks the same of the user's
// authentication.
func (l *loginState) authentication() url.Values {
	params := url.Values{}
	if l.maxAge != nil {
		params.Set("max_age", strconv.FormatInt(int64(*l.maxAge/time.Second), 10))
	}
	if len(l.acrValues) > 0 {
		params.Set("acr_values", strings.Join(l.acrValues, " "))
	}
	if l.prompt != "" {
		params.Set("prompt", l.prompt)
	}
	return params
}

type loginWire struct {
	State     string   `json:"s"`
	Nonce     string   `json:"n"`
	Verifier  string   `json:"v"`
	ReturnTo  string   `json:"to"`
	Created   int64    `json:"t"`
	Restarted bool     `json:"again,omitempty"`
	Previous  []byte   `json:"prev,omitempty"`
	Mode      string   `json:"mode,omitempty"`
	MaxAge    *int64   `json:"max_age,omitempty"` // seconds
	ACRValues []string `json:"acr,omitempty"`

	Prompt  string    `json:"prompt,omitempty"`
	StepUp  *stepWire `json:"step_up,omitempty"`
	Further []string  `json:"further,omitempty"`
	Key     string    `json:"dpop,omitempty"`
}

func (s *Site) loginPrefix() string { return s.name + ".login." }

func (s *Site) loginName(state oauth.Secret) string {
	sum := stateDigest(state)
	return s.loginPrefix() + base64.RawURLEncoding.EncodeToString(sum[:12])
}

func stateDigest(state oauth.Secret) [sha256.Size]byte {
	return sha256.Sum256([]byte(state.Reveal()))
}

// loginPurpose binds a sealed login to its site and to the cookie's name, which
// is made of the state.
func (s *Site) loginPurpose(name string) purpose {
	salt := sha256.Sum256([]byte(name))
	return purpose{kind: "login", salt: salt[:], bound: bind(string(s.id[:]), name)}
}

// loginCookie seals a login into its cookie.
func (s *Site) loginCookie(r *ring, l *loginState, sameSite http.SameSite) (*http.Cookie, error) {
	w := loginWire{
		State: l.state.Reveal(), Nonce: l.nonce.Reveal(), Verifier: l.verifier.Reveal(),
		ReturnTo: l.returnTo, Created: milliseconds(l.created), Restarted: l.restarted, Mode: l.mode, ACRValues: l.acrValues,
	}
	if l.previous != nil {
		w.Previous = append(l.previous.id[:len(l.previous.id):len(l.previous.id)], l.previous.secret[:]...)
	}
	if l.maxAge != nil {
		seconds := int64(*l.maxAge / time.Second)
		w.MaxAge = &seconds
	}
	w.Prompt = l.prompt
	if l.wanted != nil {
		asked := l.wanted.wire(l.created)
		w.StepUp, w.Further = &asked, l.further
		if len(asked.ACRValues) > 0 {
			w.ACRValues = nil // they are the same
		}
	}
	var err error
	if w.Key, err = keyWire(l.key); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding the login: %w", err)
	}
	name := s.loginName(l.state)
	value := base64.RawURLEncoding.EncodeToString(r.seal(s.loginPurpose(name), plain))
	if len(value) > maxLoginCookie {
		return nil, fmt.Errorf("%w: %d bytes", ErrLoginTooLarge, len(value))
	}
	return s.cookie(name, value, sameSite, int(loginLifetime/time.Second)), nil
}

// openLogin opens a login cookie. nil means that it is not authentic.
func (s *Site) openLogin(ctx context.Context, keys *KeyRing, c *http.Cookie) (*loginState, error) {
	if len(c.Value) > maxLoginCookie {
		return nil, nil
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(c.Value)
	if err != nil {
		return nil, nil
	}
	plain, err := keys.open(ctx, s.loginPurpose(c.Name), sealed)
	if err != nil || plain == nil {
		return nil, err
	}
	var w loginWire
	if err := json.Unmarshal(plain, &w); err != nil {
		return nil, nil
	}
	l := &loginState{
		state: oauth.Secret(w.State), nonce: oauth.Secret(w.Nonce), verifier: oauth.Secret(w.Verifier),
		returnTo: w.ReturnTo, created: fromMilliseconds(w.Created), restarted: w.Restarted, mode: w.Mode, acrValues: w.ACRValues,
	}
	if l.key, err = keyOf(w.Key); err != nil {
		return nil, nil
	}
	var previous ticket
	if len(w.Previous) == len(previous.id)+len(previous.secret) {
		copy(previous.id[:], w.Previous)
		copy(previous.secret[:], w.Previous[len(previous.id):])
		l.previous = &previous
	}
	if w.MaxAge != nil {
		maxAge := time.Duration(*w.MaxAge) * time.Second
		l.maxAge = &maxAge
	}
	l.prompt = w.Prompt
	if w.StepUp != nil {
		asked := w.StepUp.step()
		l.wanted, l.further = &asked.StepUp, w.Further
		if len(asked.ACRValues) > 0 {
			l.acrValues = asked.ACRValues
		}
	}
	return l, nil
}

// findLogin finds the login that an authorization response answers. nil means
// that this browser began none with that state.
func (s *Site) findLogin(ctx context.Context, keys *KeyRing, r *http.Request, state oauth.Secret) (*loginState, error) {
	if state == "" {
		return nil, nil
	}
	for i, c := range r.CookiesNamed(s.loginName(state)) {
		if i == maxCookieCopies {
			break
		}
		l, err := s.openLogin(ctx, keys, c)
		if err != nil {
			return nil, err
		}
		if l != nil && subtle.ConstantTimeCompare([]byte(l.state.Reveal()), []byte(state.Reveal())) == 1 {
			return l, nil
		}
	}
	return nil, nil
}

// evictLogins gives the deletions that leave room for one more login: those
// that do not open go first, then the oldest. displaced is how many of the latter.
func (s *Site) evictLogins(ctx context.Context, keys *KeyRing, cookies []*http.Cookie) (deletions []*http.Cookie, displaced int, err error) {
	type pending struct {
		name    string
		created time.Time
	}
	var logins []pending
	seen := make(map[string]bool)
	for _, c := range cookies {
		if !strings.HasPrefix(c.Name, s.loginPrefix()) || seen[c.Name] || len(seen) == 2*maxLogins {
			continue
		}
		seen[c.Name] = true
		l, err := s.openLogin(ctx, keys, c)
		if err != nil {
			return nil, 0, err
		}
		p := pending{name: c.Name}
		if l != nil {
			p.created = l.created
		}
		logins = append(logins, p)
	}
	slices.SortFunc(logins, func(a, b pending) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.name, b.name))
	})
	for len(logins) > 0 && (len(logins) >= maxLogins || logins[0].created.IsZero()) {
		if !logins[0].created.IsZero() {
			displaced++
		}
		deletions = append(deletions, s.cookie(logins[0].name, "", http.SameSiteLaxMode, -1))
		logins = logins[1:]
	}
	return deletions, displaced, nil
}
