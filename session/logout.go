// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// IDTokenHint says when the ID token goes along to the end-session endpoint: it
// is the one token that a browser may ever see, in that URL alone.
type IDTokenHint string

// The choices. Without the hint the authorization server gets client_id and
// logout_hint, and may ask the end user to confirm.
const (
	// IDTokenHintAuto: not where the server is known to do with logout_hint, nor
	// where it makes the URL too long for some servers and proxies.
	IDTokenHintAuto IDTokenHint = "auto"
	IDTokenHintOn   IDTokenHint = "on"
	IDTokenHintOff  IDTokenHint = "off"
)

// maxIDTokenHint is the longest ID token that "auto" puts into a URL, in bytes.
const maxIDTokenHint = 2048

// StartLogoutRequest is a logout at the authorization server to begin, after
// the session here has ended (OpenID Connect RP-Initiated Logout 1.0).
type StartLogoutRequest struct {
	Ended       *Ended // nil: nothing is known of a session
	RedirectURI string // the post_logout_redirect_uri
	ReturnTo    string // where the browser goes afterwards, already checked
}

// LogoutStart is what a browser needs to end its session there as well.
type LogoutStart struct {
	URL     string         // empty: the authorization server offers no such thing
	Cookies []*http.Cookie // to be set
}

type logoutWire struct {
	State    string `json:"s"`
	ReturnTo string `json:"to"`
}

func (s *Site) logoutName() string { return s.name + ".logout" }

// StartLogout makes the URL of the end-session endpoint, and the cookie that
// knows where the browser goes when it comes back.
func (m *Manager) StartLogout(ctx context.Context, site *Site, req StartLogoutRequest) (*LogoutStart, error) {
	state := oauth.NewState()
	request := oauth.EndSessionRequest{PostLogoutRedirectURI: req.RedirectURI, State: state.Reveal()}
	if req.Ended != nil {
		request.IDTokenHint, request.LogoutHint = m.logoutHints(req.Ended)
	}
	target, err := m.cfg.Client.EndSessionURL(ctx, request)
	if err != nil || target == "" {
		return &LogoutStart{}, err
	}
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(logoutWire{State: state.Reveal(), ReturnTo: req.ReturnTo})
	if err != nil {
		return nil, fmt.Errorf("encoding the logout: %w", err)
	}
	name := site.logoutName()
	value := base64.RawURLEncoding.EncodeToString(r.seal(site.logoutPurpose(name), plain))
	return &LogoutStart{URL: target, Cookies: []*http.Cookie{
		site.cookie(name, value, http.SameSiteLaxMode, int(loginLifetime.Seconds())),
	}}, nil
}

// logoutHints gives what tells the authorization server whom to sign out: one
// of the two.
func (m *Manager) logoutHints(ended *Ended) (idToken oauth.Secret, logoutHint string) {
	switch {
	case m.cfg.IDTokenHint == IDTokenHintOn,
		m.cfg.IDTokenHint == IDTokenHintAuto && ended.LogoutHint == "" && len(ended.IDToken.Reveal()) <= maxIDTokenHint:
		return ended.IDToken, ""
	case ended.LogoutHint != "":
		return "", ended.LogoutHint
	}
	return "", ended.Subject
}

func (s *Site) logoutPurpose(name string) purpose {
	p := s.loginPurpose(name)
	p.kind = "logout"
	return p
}

// FinishLogout reads where the browser goes after the authorization server sent
// it back. ok is false when this browser began no logout with that state, which
// does no harm: nothing ends here.
func (m *Manager) FinishLogout(ctx context.Context, site *Site, r *http.Request, state string) (returnTo string, cookies []*http.Cookie, ok bool) {
	keys, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return "", nil, false
	}
	for i, c := range r.CookiesNamed(site.logoutName()) {
		if i == maxCookieCopies || len(c.Value) > maxLoginCookie {
			break
		}
		sealed, err := base64.RawURLEncoding.Strict().DecodeString(c.Value)
		if err != nil {
			continue
		}
		plain, err := keys.open(site.logoutPurpose(c.Name), sealed)
		if err != nil {
			continue
		}
		var w logoutWire
		if json.Unmarshal(plain, &w) == nil && w.State != "" && w.State == state {
			return w.ReturnTo, []*http.Cookie{site.cookie(site.logoutName(), "", http.SameSiteLaxMode, -1)}, true
		}
	}
	return "", nil, false
}
