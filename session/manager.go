// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// Defaults of [Config].
const (
	DefaultIdleTimeout = 30 * time.Minute
	DefaultLifetime    = 12 * time.Hour
	DefaultMaxPerUser  = 50
)

// Config is what a [Manager] is made of.
type Config struct {
	// Backend holds the records. Required.
	Backend *Backend
	// Ring seals and signs. Required.
	Ring *KeyRing
	// Client talks to the authorization server. Required.
	Client *oauth.Client
	// Issuer and ClientID are part of every site's identity: a changed one never
	// sees the sessions of the old one. Required.
	Issuer, ClientID string
	// Name is the application's own name, the suffix of its cookies: letters,
	// digits, "_" and "-", at most 64. Default: none.
	Name string
	// SameSite is that of the session cookie. Default: strict.
	SameSite http.SameSite
	// IdleTimeout ends a session without activity. Default: 30 m.
	IdleTimeout time.Duration
	// Lifetime ends every session. Default: 12 h.
	Lifetime time.Duration
	// MaxPerUser is how many sessions a user may have here; a further login ends
	// the idlest. Default: 50.
	MaxPerUser int
	// RefreshBefore is how long before its expiry an access token is refreshed.
	// Default: the smaller of 60 s and a fifth of the token's life, and more
	// where the token endpoint is known to be slow.
	RefreshBefore time.Duration
	// Rotation says what the authorization server does to a refresh token that
	// was used. Default: RotationAuto.
	Rotation Rotation
	// RotationGrace is how long after its first use a refresh token still works,
	// with the policy grace. Required there.
	RotationGrace time.Duration
	// Validate says how an access token is judged. Default: auto.
	Validate oauth.ValidateMode
	// UserInfo adds the claims of the UserInfo endpoint to those of the ID token, at
	// login and when the application asks for a refresh.
	UserInfo bool
	// KeepTokensAtEnd leaves out the revocation (RFC 7009) of the tokens of a session
	// that ends.
	KeepTokensAtEnd bool
	// IDTokenHint says when a logout carries the ID token. Default: auto.
	IDTokenHint IDTokenHint
	// Logger receives what an operator should know; never a token. Required.
	Logger *slog.Logger
	// Observer is told of what operators count. Default: nobody.
	Observer Observer
}

// Rotation is what an authorization server does to a refresh token that was
// used (RFC 9700 section 4.14).
type Rotation string

// The policies. They decide when a refresh token whose first use got no answer
// may be presented again while the access token still lives.
const (
	RotationAuto   Rotation = "auto"   // not known: treated as strict
	RotationNone   Rotation = "none"   // it stays valid
	RotationStrict Rotation = "strict" // it is spent, and using it again revokes everything
	RotationGrace  Rotation = "grace"  // it is spent, but works for a moment longer
)

// Manager opens, begins, refreshes and ends the sessions of one application. It
// is safe for concurrent use, and holds no state that a config reload would
// lose: that is in its [Backend].
type Manager struct {
	cfg       Config
	sites     sync.Map // origin → *Site
	siteCount atomic.Int64
	unopened  throttle
	aims      aims
	unusable  throttle
	killing   killing
	opaque    atomic.Bool  // it was logged that access tokens are judged by expiry
	crowded   atomic.Bool  // it was logged that a record has no room for all access tokens
	served    atomic.Int64 // unix nanoseconds of the last good answer of the token endpoint

	backchannel, frontchannel pace
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)

// NewManager checks cfg and makes a manager. It does no I/O.
func NewManager(cfg Config) (*Manager, error) {
	switch {
	case cfg.Backend == nil || cfg.Ring == nil || cfg.Client == nil || cfg.Logger == nil:
		return nil, errors.New("session: backend, key ring, client and logger are required")
	case cfg.Issuer == "" || cfg.ClientID == "":
		return nil, errors.New("session: issuer and client id are required")
	case !nameForm.MatchString(cfg.Name):
		return nil, fmt.Errorf("session: name %q: only letters, digits, - and _, at most 64", cfg.Name)
	case cfg.IdleTimeout < 0 || cfg.Lifetime < 0 || cfg.RefreshBefore < 0:
		return nil, errors.New("session: a duration is negative")
	case cfg.MaxPerUser < 0:
		return nil, errors.New("session: the number of sessions of a user is negative")
	}
	if cfg.MaxPerUser == 0 {
		cfg.MaxPerUser = DefaultMaxPerUser
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	if cfg.SameSite == 0 {
		cfg.SameSite = http.SameSiteStrictMode
	}
	if cfg.Validate == "" {
		cfg.Validate = oauth.ValidateAuto
	}
	switch cfg.Rotation {
	case "":
		cfg.Rotation = RotationAuto
	case RotationAuto, RotationNone, RotationStrict:
	case RotationGrace:
		if cfg.RotationGrace <= 0 {
			return nil, errors.New("session: rotation grace needs its duration")
		}
	default:
		return nil, fmt.Errorf("session: unknown rotation policy %q", cfg.Rotation)
	}
	switch cfg.IDTokenHint {
	case "":
		cfg.IDTokenHint = IDTokenHintAuto
	case IDTokenHintAuto, IDTokenHintOn, IDTokenHintOff:
	default:
		return nil, fmt.Errorf("session: unknown ID token hint %q", cfg.IDTokenHint)
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	m := &Manager{cfg: cfg}
	m.aims.init(cfg.Client)
	return m, nil
}

// Open resolves the session that the request's Cookie header names, or that it goes
// on as: for ten seconds after a step-up the old cookie leads to it. It fails
// with [ErrNoSession], an [*EndedError], or an error that wraps
// [ErrStoreUnavailable] when it cannot be known.
func (m *Manager) Open(ctx context.Context, site *Site, r *http.Request) (*Session, error) {
	t, err := site.ticketOf(ctx, m.cfg.Ring, r)
	if err != nil {
		return nil, err
	}
	return m.openTicket(ctx, site, t)
}

// load gives the record of a ticket, opened, as the store has it now.
func (m *Manager) load(ctx context.Context, s *Session) (*opened, *openedStore, error) {
	store, err := m.cfg.Backend.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	rec, err := m.record(ctx, store, s)
	if err != nil {
		return nil, nil, err
	}
	e := s.entry()
	if o := e.open(rec); o != nil && o.site.id == s.site.id && o.secret == s.ticket.secret {
		if o.rec == rec {
			return o, store, nil
		}
		if o.rec.Gen == rec.Gen && bytes.Equal(o.rec.Tokens, rec.Tokens) && bytes.Equal(o.rec.Facts, rec.Facts) {
			o = &opened{rec: rec, site: o.site, secret: o.secret, tokens: o.tokens, facts: o.facts}
			e.keep(o)
			return o, store, nil
		}
	}
	tokens, facts, err := m.unseal(ctx, s, rec)
	if err != nil {
		return nil, nil, err
	}
	if before := e.opened.Load(); before != nil && before.site.id == s.site.id && before.secret == s.ticket.secret {
		tokens = tokens.remember(before.tokens, time.Now())
	}
	o := &opened{rec: rec, site: s.site, secret: s.ticket.secret, tokens: tokens, facts: facts}
	e.keep(o)
	return o, store, nil
}

// unseal opens a record. One that does not open is no session, and is left
// alone: perhaps another instance has the key.
func (m *Manager) unseal(ctx context.Context, s *Session, rec *Record) (*tokens, *facts, error) {
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	t, f, err := s.site.unseal(rec, r, s.ticket.secret[:])
	if errors.Is(err, errSealedKey) {
		id, _ := sealedBy(rec.Tokens)
		if r, err = m.cfg.Ring.reread(ctx, id); err != nil {
			return nil, nil, err
		}
		t, f, err = s.site.unseal(rec, r, s.ticket.secret[:])
	}
	if err != nil {
		if m.mayLog(&m.unopened) {
			m.cfg.Logger.Error("a session record does not open; it is kept", "session", s.key.short(), "error", err)
		}
		return nil, nil, ErrNoSession
	}
	return t, f, nil
}

// touchInterval is how seldom activity is written to the record.
func (m *Manager) touchInterval() time.Duration {
	return min(max(time.Minute, m.cfg.IdleTimeout/10), m.cfg.IdleTimeout/2)
}

// recordExpiry is when the store may forget a live record: some time after the
// end, so that somebody who comes back is told why the session is gone.
func (m *Manager) recordExpiry(lastSeen, lifetimeEnd time.Time) time.Time {
	end := lastSeen.Add(m.cfg.IdleTimeout + m.touchInterval())
	if lifetimeEnd.Before(end) {
		end = lifetimeEnd
	}
	return end.Add(time.Hour)
}

// short is what logs say of a session: enough to follow it, not enough to
// guess anything.
func (k Key) short() string { return k.String()[:11] }

// mayLog asks a throttle, and counts what it leaves out.
func (m *Manager) mayLog(t *throttle) bool {
	if t.allow() {
		return true
	}
	m.cfg.Observer.LimitReached(LimitLogLines)
	return false
}

// throttle lets one complaint through a second.
type throttle struct{ last atomic.Int64 }

func (t *throttle) allow() bool {
	now := time.Now().Unix()
	last := t.last.Load()
	return now > last && t.last.CompareAndSwap(last, now)
}
