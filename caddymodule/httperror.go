// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// Codes of the errors that the gateway answers with. They are part of the
// public contract.
const (
	codeSessionRequired    = "session_required"
	codeSessionExpired     = "session_expired"
	codeSessionRevoked     = "session_revoked"
	codeCSRFRejected       = "csrf_rejected"
	codeForbidden          = "forbidden"
	codeNavigationRequired = "navigation_required"
	codeInvalidReturnURL   = "invalid_return_url"
	codeInvalidParameter   = "invalid_parameter"
	codeLoginStateInvalid  = "login_state_invalid"
	codeStepUpRequired     = "step_up_required"
	codeStepUpFailed       = "step_up_failed"
	codeTokenUnavailable   = "token_unavailable"
	codeServerUnavailable  = "authorization_server_unavailable"
	codeStoreUnavailable   = "store_unavailable"
	codeKeyMismatch        = "key_mismatch"
	codeRateLimited        = "rate_limited"
	codeHTTPSRequired      = "https_required"
	codeNotFound           = "not_found"
	codeMethodNotAllowed   = "method_not_allowed"
	codeBodyTooLarge       = "body_too_large"
	codeTooEarly           = "too_early"
	codeMisconfigured      = "misconfigured"
	codeInvalidToken       = "invalid_token"
)

// problemType is what the `type` member of a problem begins with (RFC 9457).
const problemType = "https://github.com/caddy-bff/caddy-bff#"

// statusClientClosed is what Caddy logs for a client that went away.
const statusClientClosed = 499

// problems say for each code what is answered.
var problems = map[string]struct {
	status int
	title  string
	text   string // for a page
	signIn bool   // signing in helps
}{
	codeSessionRequired:    {401, "Signed out", "You need to sign in to see this page.", true},
	codeSessionExpired:     {401, "Session expired", "Your session has expired. Please sign in again.", true},
	codeSessionRevoked:     {401, "Session ended", "Your session was ended. Please sign in again.", true},
	codeCSRFRejected:       {403, "Request refused", "This request came from another site and was refused.", false},
	codeForbidden:          {403, "Not allowed", "You do not have access to this page.", false},
	codeNavigationRequired: {400, "Navigation required", "This address only works as a page of its own.", false},
	codeInvalidReturnURL:   {400, "Invalid return address", "The link that brought you here names an address that cannot be returned to.", true},
	codeInvalidParameter:   {400, "Invalid request", "Something in this request cannot be understood.", false},
	codeLoginStateInvalid:  {400, "Sign-in could not be completed", "What came back belongs to no sign-in that was started in this browser, or came too late. Nothing was changed.", true},
	codeStepUpRequired:     {401, "Sign in once more", "What you asked for needs you to sign in once more, or in a stronger way. You are not signed out.", true},
	codeStepUpFailed:       {403, "Signing in was not enough", "What you asked for needs a stronger sign-in, or more rights, than this one has brought. You are not signed out.", false},
	codeTokenUnavailable:   {502, "Sign-in service refused", "The sign-in service gave an answer that cannot be used. Trying again may help.", true},
	codeServerUnavailable:  {503, "Sign-in service unavailable", "The sign-in service cannot be reached at the moment. You are not signed out; please try again shortly.", false},
	codeStoreUnavailable:   {503, "Temporarily unavailable", "Sessions cannot be read at the moment. You are not signed out; please try again shortly.", false},
	codeKeyMismatch:        {503, "Temporarily unavailable", "Signing in does not work here at the moment. If you were signed in, you still are; please try again shortly.", false},
	codeRateLimited:        {429, "Too many requests", "That was asked for too often. Please wait a moment.", false},
	codeHTTPSRequired:      {400, "Secure connection required", "Signing in needs https. Plain http works on loopback addresses only.", false},
	codeNotFound:           {404, "Not found", "There is nothing at this address.", false},
	codeMethodNotAllowed:   {405, "Method not allowed", "This address does not work this way.", false},
	codeTooEarly:           {425, "Too early", "Please try again.", false},
	codeMisconfigured:      {500, "Not set up correctly", "This site is not set up correctly. What is wrong is in the log of its server.", false},
	codeInvalidToken:       {401, "Access token refused", "The access token that came with this request is not valid here.", false},
	codeBodyTooLarge:       {413, "Request too large", "The request is larger than this address takes.", false},
}

// httpError is an answer of the gateway.
type httpError struct {
	code       string
	reason     session.Reason
	retryAfter time.Duration
	signIn     bool       // signing in may help here, though not with this code in general
	returnTo   string     // of a sign-in link on a page
	allow      string     // with codeMethodNotAllowed
	toServer   bool       // it answers the authorization server, which knows RFC 6749 section 5.2
	bearer     string     // error code for the challenge where bearer tokens are taken
	stepUp     url.Values // query of the login that helps, with codeStepUpRequired
	err        error      // for the log
}

func (e *httpError) Error() string {
	if e.err != nil {
		return e.code + ": " + e.err.Error()
	}
	return e.code
}

func (e *httpError) Unwrap() error { return e.err }

// asHTTPError is the one place where errors become answers.
//
//	no session: session_required. Ended by time, or by its tokens: session_expired;
//	by somebody: session_revoked. A store, key ring or authorization server that
//	cannot be had, or a key ring that is not the one of the other instances: 503,
//	and nobody is signed out for it. An authorization server that refuses the
//	client, or answers what cannot be used, be it metadata, keys or tokens:
//	token_unavailable.
func asHTTPError(err error) *httpError {
	var (
		own         *httpError
		ended       *session.EndedError
		unavailable *session.UnavailableError
		limited     *session.RateLimitedError
		mismatch    *session.KeyMismatchError
		login       *session.LoginError
		server      *oauth.Error
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &login):
		return asLoginError(login)
	case errors.Is(err, session.ErrNoSession):
		return &httpError{code: codeSessionRequired, reason: session.ReasonNone, err: err}
	case errors.As(err, &ended):
		return &httpError{code: endedCode(ended.Reason), reason: ended.Reason, err: err}
	case errors.As(err, &limited):
		return &httpError{code: codeRateLimited, retryAfter: limited.RetryAfter, err: err}
	case errors.As(err, &mismatch):
		return &httpError{code: codeKeyMismatch, retryAfter: 5 * time.Second, err: err}
	case errors.Is(err, session.ErrStoreUnavailable), errors.Is(err, session.ErrFull):
		return &httpError{code: codeStoreUnavailable, retryAfter: 2 * time.Second, err: err}
	case errors.Is(err, oauth.ErrUnusable), errors.Is(err, oauth.ErrUnsupported), errors.Is(err, session.ErrTokenUnavailable):
		return &httpError{code: codeTokenUnavailable, err: err}
	case errors.As(err, &unavailable):
		return &httpError{code: codeServerUnavailable, retryAfter: unavailable.RetryAfter, err: err}
	case errors.Is(err, session.ErrLoginTooLarge):
		return &httpError{code: codeInvalidParameter, err: err}
	case errors.Is(err, returnurl.ErrRefused):
		return &httpError{code: codeInvalidReturnURL, err: err}
	case errors.Is(err, errPlainHTTP):
		return &httpError{code: codeHTTPSRequired, err: err}
	case errors.Is(err, errHost):
		return &httpError{code: codeInvalidParameter, err: err}
	}
	switch oauth.ClassOf(err) {
	case oauth.ClassConfiguration, oauth.ClassRefused, oauth.ClassSessionOver:
		return &httpError{code: codeTokenUnavailable, err: err}
	}
	out := &httpError{code: codeServerUnavailable, retryAfter: 5 * time.Second, err: err}
	if errors.As(err, &server) && server.RetryAfter > 0 {
		out.retryAfter = server.RetryAfter
	}
	return out
}

// asLoginError answers a login that did not end well.
func asLoginError(e *session.LoginError) *httpError {
	// Whatever it was, the page would be a dead end without a way to try again.
	out := &httpError{signIn: true, returnTo: e.ReturnTo, err: e}
	if stepUpFailed(e) {
		out.code = codeStepUpFailed
		return out
	}
	switch e.Kind {
	case session.LoginStateInvalid, session.LoginStale, session.LoginResponseInvalid:
		out.code = codeLoginStateInvalid
	case session.LoginRefused:
		switch e.Code {
		case "access_denied":
			out.code = codeForbidden
		case "server_error", "temporarily_unavailable":
			out.code, out.retryAfter = codeServerUnavailable, 5*time.Second
		default:
			out.code = codeTokenUnavailable
		}
	case session.LoginUnavailable:
		inner := asHTTPError(e.Err)
		out.code, out.retryAfter = inner.code, inner.retryAfter
	default: // LoginFailed, LoginInsufficient: tokens are missing or do not verify, or the session is over already
		out.code = codeTokenUnavailable
		var ended *session.EndedError
		if errors.As(e.Err, &ended) {
			out.code, out.reason = endedCode(ended.Reason), ended.Reason
		}
	}
	return out
}

func endedCode(reason session.Reason) string {
	switch reason {
	case session.ReasonRevoked, session.ReasonLoggedOut, session.ReasonLimit:
		return codeSessionRevoked
	case session.ReasonNone, "":
		return codeSessionRequired
	}
	return codeSessionExpired
}

// problem is the body of an error for programs (RFC 9457).
type problem struct {
	Type       string         `json:"type"`
	Title      string         `json:"title"`
	Status     int            `json:"status"`
	Code       string         `json:"code"`
	RequestID  string         `json:"request_id,omitempty"`
	Reason     session.Reason `json:"reason,omitempty"`
	RetryAfter int            `json:"retry_after,omitempty"`
	LoginURL   string         `json:"login_url,omitempty"`

	Error            string `json:"error,omitempty"` // to the authorization server
	ErrorDescription string `json:"error_description,omitempty"`
}

// fail answers a request with an error: a page for people, a problem for
// programs. It returns an error only to hand a document to handle_errors.
func (hd *handle) fail(w http.ResponseWriter, r *http.Request, err error) error {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		hd.result = resultClientGone
		return caddyhttp.Error(statusClientClosed, errors.New("client went away"))
	}
	e := asHTTPError(err)
	p := problems[e.code]
	hd.result = e.code
	hd.user.code.Store(&e.code)
	id := requestID(r) // before it is logged
	hd.logFailure(r, e, p.status)

	h := w.Header()
	ownAnswer(h)
	hd.from.corsHeaders(h, r)
	if h.Get("Access-Control-Allow-Origin") != "" {
		h.Set("Access-Control-Expose-Headers", "X-BFF-Error, Retry-After, WWW-Authenticate")
	}
	addVary(h, "Accept", "Cookie", "Origin", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site")
	h.Set("X-BFF-Error", e.code)
	if p.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Session error="`+e.code+`"`)
	}
	if challenge := hd.bearerChallenge(e); challenge != "" {
		h.Add("WWW-Authenticate", challenge)
	}
	seconds := 0
	if e.retryAfter > 0 || p.status == http.StatusServiceUnavailable {
		seconds = max(1, int(math.Ceil(e.retryAfter.Seconds())))
		h.Set("Retry-After", strconv.Itoa(seconds))
	}
	if e.allow != "" {
		h.Set("Allow", e.allow)
	}
	closeUnread(w, r)

	if e.toServer || !wantsPage(r) {
		body := problem{
			Type: problemType + e.code, Title: p.title, Status: p.status, Code: e.code,
			RequestID: id, Reason: e.reason, RetryAfter: seconds,
		}
		if (p.signIn || e.signIn) && e.code != codeInvalidReturnURL {
			body.LoginURL = hd.signInURL(e, "")
		}
		if e.toServer {
			body.Error, body.ErrorDescription = "invalid_request", fmt.Sprint(e.err)
			if seconds > 0 {
				body.Error, body.ErrorDescription = "temporarily_unavailable", p.title
			}
		}
		return writeJSON(w, "application/problem+json", p.status, body)
	}
	if hd.bff.ErrorPages == errorPagesCaddy {
		return hd.failByCaddy(w, r, p.status, e)
	}
	return hd.errorPage(w, r, e)
}

func (hd *handle) errorPage(w http.ResponseWriter, r *http.Request, e *httpError) error {
	p := problems[e.code]
	out := page{Title: p.title, Text: p.text, Code: e.code, RequestID: requestID(r)}
	if p.signIn || e.signIn {
		returnTo := e.returnTo
		if returnTo == "" {
			returnTo = hd.pageURL
		}
		out.Link, out.LinkText = hd.signInURL(e, returnTo), "Sign in"
	}
	return out.write(w, p.status)
}

// signInURL is where signing in may help against an error. Where a live session
// brings no token, it has to be another one: a plain login would lead straight back.
// A login that failed has brought none.
func (hd *handle) signInURL(e *httpError, returnTo string) string {
	if e.stepUp != nil {
		return hd.stepUpURL(e.stepUp, returnTo)
	}
	if failedLogin := e.signIn; failedLogin || e.code != codeTokenUnavailable {
		return hd.loginURL(returnTo)
	}
	query := url.Values{"force": {"true"}}
	if returnTo != "" {
		query.Set("return_to", returnTo)
	}
	return hd.endpointURL("login") + "?" + query.Encode()
}

// failByCaddy hands a document to the site's handle_errors. The address of a
// callback holds a code: Caddy logs the address of whatever request ends with
// an error, so there the error routes are run from here.
func (hd *handle) failByCaddy(w http.ResponseWriter, r *http.Request, status int, e *httpError) error {
	err := caddyhttp.Error(status, errors.New(e.code))
	if skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); !skip {
		return err
	}
	return hd.runErrorRoutes(w, r, e, err)
}

// runErrorRoutes answers with the site's handle_errors, or with our own page where
// there is none, or where it fails.
func (hd *handle) runErrorRoutes(w http.ResponseWriter, r *http.Request, e *httpError, err error) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		return hd.errorPage(w, r, e)
	}
	last := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return hd.errorPage(w, r, e)
	})
	if failed := server.Errors.Routes.Compile(last).ServeHTTP(w, server.Errors.WithError(r, err)); failed != nil {
		return hd.errorPage(w, r, e)
	}
	return nil
}

// logFailure tells operators of what they can do something about, and of what
// goes on and on at times. Errors of oauth and session print no secrets.
func (hd *handle) logFailure(r *http.Request, e *httpError, status int) {
	level, attrs := slog.LevelDebug, []any{"error_code", e.code, "status", status} // Caddy adds the uuid of the request
	if status >= 500 {
		if ok, suppressed, since := hd.bff.failures.allow(e.code, time.Now()); ok {
			level = slog.LevelWarn
			if suppressed > 0 {
				attrs = append(attrs, "suppressed", suppressed, "suppressed_since", since)
			}
		} else {
			hd.bff.metrics.LimitReached(session.LimitLogLines)
		}
	}
	if !hd.bff.logger.Enabled(r.Context(), level) {
		return
	}
	if e.err != nil { // the code alone may say it all
		attrs = append(attrs, "error", e.err.Error())
	}
	hd.bff.logger.Log(r.Context(), level, "answered with an error", attrs...)
}

// requestID is the identifier that Caddy gives the request: the placeholder
// {http.request.uuid}, and the field uuid of the access log.
func requestID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	return id
}

func writeJSON(w http.ResponseWriter, contentType string, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	ownAnswer(h)
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}
