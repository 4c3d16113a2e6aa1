// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrUnsupported says that the authorization server does not offer what was
	// asked for, according to its metadata.
	ErrUnsupported = errors.New("oauth: not supported by the authorization server")

	// ErrUnusable says that the authorization server did answer, and that its
	// answer is of no use: not the document that was asked for, tokens of an
	// unknown type, a redirect. Unlike an outage it does not pass by itself. It
	// says nothing of what may be done next: that is what [ClassOf] is for.
	ErrUnusable = errors.New("oauth: unusable answer of the authorization server")

	// ErrMetadata says that authorization server metadata was found but cannot
	// be trusted or used: another issuer, a missing or insecure endpoint. It
	// wraps ErrUnusable.
	ErrMetadata = fmt.Errorf("%w: metadata", ErrUnusable)

	// ErrResponse says that an authorization response cannot be used: a missing,
	// repeated or oversized parameter, or a wrong state or issuer. No code of
	// such a response may be sent anywhere.
	ErrResponse = errors.New("oauth: unusable authorization response")

	// ErrIDToken says that an ID token did not pass validation.
	ErrIDToken = errors.New("oauth: invalid ID token")

	// ErrIDTokenMismatch says that an ID token is intact but meant for another
	// client, another login, or another access token. It wraps ErrIDToken.
	ErrIDTokenMismatch = fmt.Errorf("%w: not for this login", ErrIDToken)

	// ErrAuthentication says that an ID token is sound, and that the end user did not
	// authenticate in the way, or as lately, as the request asked (OpenID Connect Core
	// section 3.1.3.7, 12 and 13). It wraps ErrIDToken.
	ErrAuthentication = fmt.Errorf("%w: not the authentication that was asked for", ErrIDToken)

	// ErrNonce says that an ID token is intact but belongs to another login, or
	// to none (OpenID Connect Core section 3.1.3.7, 11). It wraps ErrIDToken.
	ErrNonce = fmt.Errorf("%w: nonce is not that of the login", ErrIDToken)

	// ErrSubjectChanged says that an ID token which came with a refresh speaks
	// of another end user or another issuer than the one of the login (OpenID
	// Connect Core section 12.2). The session must end.
	ErrSubjectChanged = errors.New("oauth: refreshed ID token names another subject")

	// ErrLogoutToken says that a logout token did not pass validation. The text
	// holds nothing of the token.
	ErrLogoutToken = errors.New("oauth: invalid logout token")

	// ErrAccessToken says that an access token did not pass validation.
	ErrAccessToken = errors.New("oauth: invalid access token")

	// ErrAccessTokenExpired says that an access token is intact but expired. It
	// wraps ErrAccessToken.
	ErrAccessTokenExpired = fmt.Errorf("%w: expired", ErrAccessToken)

	// ErrKeysUnavailable says that the issuer's keys could not be had, so that
	// nothing can be said about a signature.
	ErrKeysUnavailable = errors.New("oauth: keys of the authorization server are unavailable")
)

// Class says what an error means for a session (and so what to do about it).
type Class int

// The classes of errors. The zero value is ClassOutage: what is not understood
// must not end a session.
const (
	// ClassOutage: the authorization server does not work at the moment: 5xx,
	// 429, temporarily_unavailable, and answers that make no sense. Try again
	// later.
	ClassOutage Class = iota
	// ClassSessionOver: the grant is gone for good (invalid_grant and its kin,
	// a changed subject). The end user has to sign in again.
	ClassSessionOver
	// ClassConfiguration: the authorization server refuses this client
	// (invalid_client, invalid_scope and their kin). No session is to blame; an
	// operator has to act.
	ClassConfiguration
	// ClassRefused: any other 4xx answer, empty ones included.
	ClassRefused
	// ClassAmbiguous: the request left this machine, or may have, and no whole
	// answer came, be it for a timeout or a cut connection. The server may have
	// done what was asked.
	ClassAmbiguous
	// ClassNotSent: nothing left this machine, so nothing can have happened.
	ClassNotSent
)

// String returns a name for logs, from a closed set.
func (c Class) String() string {
	switch c {
	case ClassSessionOver:
		return "session_over"
	case ClassConfiguration:
		return "configuration"
	case ClassRefused:
		return "refused"
	case ClassAmbiguous:
		return "ambiguous"
	case ClassNotSent:
		return "not_sent"
	default:
		return "outage"
	}
}

// Error is what became of a request to the authorization server that did not
// succeed, or an error response at the redirection endpoint. The fields Code,
// Description and URI are those of RFC 6749 sections 4.1.2.1 and 5.2; all of
// them come from outside, are bounded and free of control characters, but
// still untrusted text.
type Error struct {
	Status      int           // HTTP status of the answer; 0 when there was none
	Code        string        // "error" member or parameter; "" when there was none
	Description string        // "error_description"; may hold personal data, keep it out of logs
	URI         string        // "error_uri"; never make it a link without checking it
	RetryAfter  time.Duration // Retry-After of the answer, at most 60 s; 0 when there was none
	Class       Class         // what it means

	cause error
}

// Error prints Code, Status and what this package has to say about the cause;
// never the description, which is the authorization server's text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("oauth: authorization server")
	switch {
	case e.Status != 0:
		b.WriteString(" answered " + strconv.Itoa(e.Status))
	case e.Code != "":
		b.WriteString(" answered")
	default:
		b.WriteString(" gave no answer")
	}
	if e.Code != "" {
		b.WriteString(" " + e.Code)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	return b.String()
}

// Unwrap returns the cause, if there is one: a transport's or a context's error.
func (e *Error) Unwrap() error { return e.cause }

// ClassOf returns the class of err: that of an [*Error] in its chain,
// ClassSessionOver for [ErrSubjectChanged], and ClassOutage for all else.
func ClassOf(err error) Class {
	if errors.Is(err, ErrSubjectChanged) {
		return ClassSessionOver
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return ClassOutage
}

// maxRetryAfter caps what a server may ask for: a mistake of its operator must
// not lock users out for a day.
const maxRetryAfter = 60 * time.Second

// unwell says whether a status means that the server does not work at the
// moment, or has too much to do; any other is an answer.
func unwell(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// classOfAnswer classifies an error answer of the token or revocation endpoint.
// The status wins over the code where the server says that it is not well.
func classOfAnswer(status int, code string) Class {
	if unwell(status) {
		return ClassOutage
	}
	if code != "" {
		return classOfCode(code)
	}
	if status >= 400 {
		return ClassRefused
	}
	return ClassOutage
}

// classOfCode classifies an error code, of the token endpoint or of an
// authorization response.
func classOfCode(code string) Class {
	switch code {
	case "invalid_grant", "login_required", "interaction_required", "consent_required", "account_selection_required":
		return ClassSessionOver
	case "invalid_client", "unauthorized_client", "unsupported_grant_type", "unsupported_response_type",
		"invalid_scope", "invalid_target", "unsupported_token_type", "invalid_dpop_proof":
		return ClassConfiguration
	case "temporarily_unavailable", "server_error", "use_dpop_nonce":
		return ClassOutage
	}
	return ClassRefused
}

// retryAfter reads a Retry-After header: seconds or an HTTP date (RFC 9110
// section 10.2.3). What cannot be read counts as absent.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if digits(v) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// errorText returns s when it is no longer than limit and consists of the
// characters that RFC 6749 section 5.2 allows in error fields; else "".
func errorText(s string, limit int) string {
	if len(s) > limit {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return ""
		}
	}
	return s
}
