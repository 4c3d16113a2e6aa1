// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// tokens is the part of a record that opens only with the cookie. It is immutable
// once others see it, but for the verdicts on its access tokens.
type tokens struct {
	*accessToken // the default one

	refresh, id oauth.Secret
	refreshEnd  time.Time    // of the refresh token, as its answer told; goes into the facts
	sid         string       // of the ID token that came with the last refresh, as that told; goes into the facts
	idIssued    time.Time    // of that ID token
	nonce       oauth.Secret // of the login's ID token (OIDC Core section 12.2)
	claims      map[string]any
	described   []string       // of these, the names of those that the UserInfo endpoint has told and the ID token has not
	loginState  []byte         // digest of the state of the login that made the session
	returnTo    string         // where that login went
	further     []string       // scope that resource servers have asked for, beside the configured one
	steps       []step         // the step-ups that the session has been through, the last one first
	key         *oauth.DPoPKey // that all tokens of the session are bound to; nil: Bearer tokens
	logoutProof []byte         // that of the session that this one continues; nil: it has its own

	narrow []*accessToken // those for one upstream each, what was got last first
	apart  int            // of these, how many at the end the record has no room for
	floor  uint64         // the generation that a refresh on request brought last; of no purpose is an older one good
}

// facts is the part of a record that opens without the cookie: for logout by
// the authorization server, for lists of sessions, for the administrator.
type facts struct {
	issuer    string
	subject   string
	sid       string   // of the newest ID token that has one
	loginSID  string   // that of the login, where it was another
	formerSID []string // those that step-ups have replaced, the last one first, where they are others still
	userAgent string
	created   time.Time
	authTime  time.Time
	// lifetimeEnd is the absolute end.
	lifetimeEnd time.Time
	// refreshEnd is the end of the refresh token where the server tells it.
	refreshEnd time.Time
	// accessEnd is the end of an access token that cannot be refreshed.
	accessEnd time.Time
	gen       uint64
	digest    [sha256.Size]byte // of the sealed tokens part
}

// follow takes over the sid of a refreshed ID token, if it has one. That of the
// login goes on to name the session: whoever signs it out may know no other.
func (f *facts) follow(sid string) {
	if sid == "" || sid == f.sid {
		return
	}
	if f.loginSID == "" {
		f.loginSID = f.sid
	}
	f.sid = sid
	if f.sid == f.loginSID {
		f.loginSID = ""
	}
}

// The wire forms are separate types on purpose: an oauth.Secret marshals as its
// redaction, and a redaction must never get into a record.

type tokensWire struct {
	Access       string          `json:"at"`
	Refresh      string          `json:"rt,omitempty"`
	ID           string          `json:"id,omitempty"`
	AccessExpiry int64           `json:"exp,omitempty"` // unix milliseconds
	Issued       int64           `json:"iat"`
	Scope        []string        `json:"scope,omitempty"`
	Nonce        string          `json:"nonce,omitempty"`
	Claims       json.RawMessage `json:"claims,omitempty"`
	LoginState   []byte          `json:"state,omitempty"`
	ReturnTo     string          `json:"to,omitempty"`

	// What was not there from the beginning.
	Gen    uint64            `json:"at_gen,omitempty"`
	Prev   uint64            `json:"at_prev,omitempty"`
	For    []byte            `json:"at_for,omitempty"`
	Narrow []accessTokenWire `json:"narrow,omitempty"`
	Floor  uint64            `json:"floor,omitempty"`

	Further   []string   `json:"further,omitempty"`
	Steps     []stepWire `json:"steps,omitempty"`
	Described []string   `json:"described,omitempty"`
	Key       string     `json:"dpop,omitempty"`
	Proof     []byte     `json:"proof,omitempty"`
}

type factsWire struct {
	Issuer      string   `json:"iss"`
	Subject     string   `json:"sub,omitempty"`
	SID         string   `json:"sid,omitempty"`
	UserAgent   string   `json:"ua,omitempty"`
	Created     int64    `json:"created"`
	AuthTime    int64    `json:"auth_time,omitempty"`
	LifetimeEnd int64    `json:"end"`
	RefreshEnd  int64    `json:"rt_end,omitempty"`
	AccessEnd   int64    `json:"at_end,omitempty"`
	LoginSID    string   `json:"login_sid,omitempty"`
	FormerSID   []string `json:"former_sid,omitempty"`
	Gen         uint64   `json:"gen"`
	Digest      []byte   `json:"digest"`
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilliseconds(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// sealInto seals both parts into rec, whose Key and Gen are final.
func (s *Site) sealInto(rec *Record, r *ring, secret []byte, t *tokens, f *facts) error {
	claims, err := json.Marshal(t.claims)
	if err != nil {
		return fmt.Errorf("encoding claims: %w", err)
	}
	byDefault := t.accessToken.wire()
	w := tokensWire{
		Access: byDefault.Access, Refresh: t.refresh.Reveal(), ID: t.id.Reveal(),
		AccessExpiry: byDefault.Expiry, Issued: byDefault.Issued,
		Scope: byDefault.Scope, Nonce: t.nonce.Reveal(), Claims: claims,
		LoginState: t.loginState, ReturnTo: t.returnTo,
		Gen: byDefault.Gen, Prev: byDefault.Prev, For: byDefault.For, Floor: t.floor,
	}
	if w.Key, err = keyWire(t.key); err != nil {
		return err
	}
	for _, a := range t.stored() {
		w.Narrow = append(w.Narrow, a.wire())
	}
	w.Further, w.Described = t.further, t.described
	for _, s := range t.steps {
		w.Steps = append(w.Steps, s.wire(s.at))
	}
	w.Proof = t.logoutProof
	plain, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encoding tokens: %w", err)
	}
	rec.Tokens = r.seal(s.tokensPurpose(rec, secret), plain)
	f.gen, f.digest = rec.Gen, sha256.Sum256(rec.Tokens)
	plain, err = json.Marshal(factsWire{
		Issuer: f.issuer, Subject: f.subject, SID: f.sid, UserAgent: f.userAgent,
		Created: milliseconds(f.created), AuthTime: milliseconds(f.authTime),
		LifetimeEnd: milliseconds(f.lifetimeEnd),
		RefreshEnd:  milliseconds(f.refreshEnd), AccessEnd: milliseconds(f.accessEnd),
		LoginSID: f.loginSID, FormerSID: f.formerSID,
		Gen: f.gen, Digest: f.digest[:],
	})
	if err != nil {
		return fmt.Errorf("encoding facts: %w", err)
	}
	rec.Facts = r.seal(s.factsPurpose(rec.Key), plain)
	return nil
}

// unseal opens both parts of rec and checks that they belong together.
func (s *Site) unseal(rec *Record, r *ring, secret []byte) (*tokens, *facts, error) {
	f, err := s.unsealFacts(rec, r)
	if err != nil {
		return nil, nil, err
	}
	plain, err := r.open(s.tokensPurpose(rec, secret), rec.Tokens)
	if err != nil {
		return nil, nil, err
	}
	var w tokensWire
	if err := json.Unmarshal(plain, &w); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errSealed, err)
	}
	byDefault := accessTokenWire{
		For: w.For, Access: w.Access, Expiry: w.AccessExpiry, Issued: w.Issued, Scope: w.Scope, Gen: w.Gen, Prev: w.Prev,
	}
	if w.Gen == 0 { // written before there were others: each generation brought one
		byDefault.Gen, byDefault.Prev = rec.Gen, rec.Gen-1
	}
	t := &tokens{
		accessToken: byDefault.token(), refresh: oauth.Secret(w.Refresh), id: oauth.Secret(w.ID),
		nonce: oauth.Secret(w.Nonce), loginState: w.LoginState, returnTo: w.ReturnTo,
		floor: w.Floor,
	}
	if t.key, err = keyOf(w.Key); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errSealed, err)
	}
	for _, a := range w.Narrow {
		t.narrow = append(t.narrow, a.token())
	}
	t.further, t.described = w.Further, w.Described
	for _, s := range w.Steps {
		t.steps = append(t.steps, s.step())
	}
	t.logoutProof = w.Proof
	if len(w.Claims) > 0 {
		d := json.NewDecoder(bytes.NewReader(w.Claims))
		d.UseNumber() // as they came out of the ID token
		if err := d.Decode(&t.claims); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errSealed, err)
		}
	}
	return t, f, nil
}

func (s *Site) unsealFacts(rec *Record, r *ring) (*facts, error) {
	plain, err := r.open(s.factsPurpose(rec.Key), rec.Facts)
	if err != nil {
		return nil, err
	}
	var w factsWire
	if err := json.Unmarshal(plain, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", errSealed, err)
	}
	f := &facts{
		issuer: w.Issuer, subject: w.Subject, sid: w.SID, loginSID: w.LoginSID, formerSID: w.FormerSID, userAgent: w.UserAgent,
		created: fromMilliseconds(w.Created), authTime: fromMilliseconds(w.AuthTime),
		lifetimeEnd: fromMilliseconds(w.LifetimeEnd),
		refreshEnd:  fromMilliseconds(w.RefreshEnd), accessEnd: fromMilliseconds(w.AccessEnd),
		gen: w.Gen,
	}
	copy(f.digest[:], w.Digest)
	// A part of another generation, put here by whoever can write the store,
	// does not pass: facts name the generation and the very bytes they go with.
	if sum := sha256.Sum256(rec.Tokens); f.gen != rec.Gen || !bytes.Equal(sum[:], w.Digest) {
		return nil, errSealed
	}
	return f, nil
}

func (s *Site) tokensPurpose(rec *Record, secret []byte) purpose {
	gen := binary.BigEndian.AppendUint64(nil, rec.Gen)
	return purpose{kind: "tokens", salt: rec.Key[:], secret: secret, bound: bind(string(s.id[:]), string(rec.Key[:]), string(gen))}
}

func (s *Site) factsPurpose(key Key) purpose {
	return purpose{kind: "facts", salt: key[:], bound: bind(string(s.id[:]), string(key[:]))}
}

// transientClaims change with every ID token and mean nothing to anybody else.
var transientClaims = []string{"iat", "exp", "nbf", "jti", "at_hash", "c_hash", "s_hash", "nonce", "auth_time", "rat"}

// mergeClaims lays the claims of a refreshed ID token over those that are
// there: some servers put fewer claims into it than into the first one.
func mergeClaims(old, fresh map[string]any) map[string]any {
	if len(fresh) == 0 {
		return old
	}
	merged := maps.Clone(old)
	if merged == nil {
		merged = make(map[string]any, len(fresh))
	}
	maps.Copy(merged, fresh)
	return merged
}

// sameClaims compares what an application can see of two sets of claims.
func sameClaims(a, b map[string]any) bool {
	visible := func(claims map[string]any) []byte {
		c := maps.Clone(claims)
		for _, name := range transientClaims {
			delete(c, name)
		}
		out, _ := json.Marshal(c) //nolint:errcheck // came out of JSON; keys are sorted
		return out
	}
	return bytes.Equal(visible(a), visible(b))
}
