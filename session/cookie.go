// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/gorilla/securecookie"
)

// cookieBase is what the names of our cookies begin with after the prefix.
const cookieBase = "bff"

// securePrefix makes browsers accept the cookie only from an HTTPS answer's
// header, for one host and the whole of it (RFC 10017 section 6.1.3.2). Those
// that do not know it enforce it as __Host-.
const securePrefix = "__Host-Http-"

// maxCookieValue bounds the value of a session cookie, in bytes.
const maxCookieValue = 512

// maxCookieCopies bounds how many cookies of one name are looked at.
const maxCookieCopies = 4

// ticket is what the session cookie holds.
type ticket struct {
	id     [16]byte // its digest is the store key
	secret [32]byte // without it the tokens do not open
}

func newTicket() ticket {
	var t ticket
	rand.Read(t.id[:])     //nolint:errcheck // never fails, see crypto/rand
	rand.Read(t.secret[:]) //nolint:errcheck // never fails, see crypto/rand
	return t
}

func (t *ticket) key() Key { return sha256.Sum256(t.id[:]) }

// sessionCookie makes the Set-Cookie of a new session: a session cookie in the
// sense of RFC 6265, since the server side decides when it ends.
func (s *Site) sessionCookie(r *ring, t ticket) (*http.Cookie, error) {
	value, err := s.encodeTicket(r.sealing(), t)
	if err != nil {
		return nil, err
	}
	return s.cookie(s.name, value, s.sameSite, 0), nil
}

// ClearSession makes the Set-Cookie that deletes the session cookie.
func (s *Site) ClearSession() *http.Cookie { return s.cookie(s.name, "", s.sameSite, -1) }

// cookie gives every cookie of ours the same attributes, deletions as well: a
// browser ignores a deletion that differs in them.
func (s *Site) cookie(name, value string, sameSite http.SameSite, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: s.secure, SameSite: sameSite,
	}
}

// encodeTicket gives "<key id>.<securecookie>". Name, site and key id are part
// of the MAC: the cookie of another site, name or key is a forged one.
func (s *Site) encodeTicket(k *ringKey, t ticket) (string, error) {
	payload := append(t.id[:len(t.id):len(t.id)], t.secret[:]...)
	value, err := k.cookie.Encode(s.macName(k.id), payload)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(k.id[:]) + "." + value, nil
}

// cookieCodec signs and verifies session cookies with one key. It is safe for
// concurrent use.
type cookieCodec struct{ *securecookie.SecureCookie }

func newCookieCodec(macKey []byte) cookieCodec {
	// No block key: the value is random, there is nothing to hide in it.
	// No maximum age: the record decides how long a session lives.
	return cookieCodec{securecookie.New(macKey, nil).MaxAge(0).MaxLength(maxCookieValue).SetSerializer(securecookie.NopEncoder{})}
}

func (s *Site) macName(id keyID) string {
	return string(bind("session cookie", s.name, string(s.id[:]), string(id[:])))
}

// decodeTicket verifies a cookie's value. ok is false for whatever this
// installation did not issue for this site.
func (s *Site) decodeTicket(ctx context.Context, keys *KeyRing, value string) (t ticket, ok bool, err error) {
	if len(value) > maxCookieValue {
		return t, false, nil
	}
	head, signed, found := strings.Cut(value, ".")
	id, decodeErr := base64.RawURLEncoding.Strict().DecodeString(head)
	if !found || decodeErr != nil || len(id) != len(keyID{}) {
		return t, false, nil
	}
	r, err := keys.current(ctx)
	if err != nil {
		return t, false, err
	}
	k := r.find(keyID(id))
	if k == nil {
		if r, err = keys.reread(ctx, keyID(id)); err != nil {
			return t, false, err
		}
		if k = r.find(keyID(id)); k == nil {
			return t, false, nil
		}
	}
	var payload []byte
	if err := k.cookie.Decode(s.macName(k.id), signed, &payload); err != nil || len(payload) != len(t.id)+len(t.secret) {
		return t, false, nil
	}
	copy(t.id[:], payload)
	copy(t.secret[:], payload[len(t.id):])
	return t, true, nil
}

// ticketOf finds the ticket among the request's cookies. Invalid cookies of our
// name are ignored (a neighbour may have planted them); two different valid
// ones are refused, since nobody can tell which one the user means.
func (s *Site) ticketOf(ctx context.Context, keys *KeyRing, r *http.Request) (ticket, error) {
	var found ticket
	var have bool
	cookies := r.CookiesNamed(s.name)
	if len(cookies) > maxCookieCopies {
		return found, ErrNoSession
	}
	for _, c := range cookies {
		t, ok, err := s.decodeTicket(ctx, keys, c.Value)
		switch {
		case err != nil:
			return found, err
		case !ok:
		case have && t != found:
			return ticket{}, ErrNoSession
		default:
			found, have = t, true
		}
	}
	if !have {
		return found, ErrNoSession
	}
	return found, nil
}

// OwnCookie reports whether a cookie name is one of the gateway's, in any
// spelling that some server might read as one of them: such cookies are neither
// relayed to a resource server nor taken from one.
func OwnCookie(name string) bool {
	plain := strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c > ' ' && c < 0x7f && c != '"':
			return c
		}
		return -1
	}, name)
	if strings.Contains(plain, "__host-http-"+cookieBase) || strings.Contains(plain, "__host-"+cookieBase) {
		return true
	}
	rest, ok := strings.CutPrefix(plain, cookieBase)
	return ok && (rest == "" || rest[0] == '-' || rest[0] == '.')
}
