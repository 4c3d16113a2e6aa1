// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"log/slog"
	"net/http"
)

// ReplayResult says how the attempt to heal a 401 ended.
type ReplayResult string

// The results of a replay.
const (
	ReplayHealed        ReplayResult = "healed"         // the fresh token was taken
	ReplayRefused       ReplayResult = "refused"        // the fresh token was refused too
	ReplayRefreshFailed ReplayResult = "refresh_failed" // there was no fresh token in time
	ReplayBodyGone      ReplayResult = "body_gone"      // the body could not be sent again
	ReplayFailed        ReplayResult = "failed"         // no answer to the second attempt
	ReplayProved        ReplayResult = "proved"         // another DPoP proof was taken, of the same token
)

// ReplayResults gives all results.
func ReplayResults() []ReplayResult {
	return []ReplayResult{ReplayHealed, ReplayRefused, ReplayRefreshFailed, ReplayBodyGone, ReplayFailed, ReplayProved}
}

// healing is what there is to do after a 401 that named the token.
type healing struct {
	*Transport
	grant   *Grant
	request *http.Request // of the client
	refused string        // the token
	proved  bool          // another proof of it was asked for
	body    *replayBody   // nil if there is none
	hook    *interim      // nil if there is none
}

// unauthorized sees to first, the 401 that answers out, and returns the request and
// the answer that count.
func (h *healing) unauthorized(out *http.Request, first *http.Response) (*http.Request, *http.Response) {
	out, resp, result := h.proveAgain(out, first)
	if result != "" {
		h.replayed(h.request.Context(), result)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && h.grant.refused(resp.Header):
		return h.heal(out, resp)
	case resp.StatusCode < http.StatusBadRequest:
		h.grant.accepted(h.refused)
	}
	return out, resp
}

// heal gets a fresh token after first, the answer to out, and sends the request
// again. It returns the request and the answer that count.
func (h *healing) heal(out *http.Request, first *http.Response) (*http.Request, *http.Response) {
	reqCtx := h.request.Context()
	ctx, cancel := context.WithTimeout(reqCtx, h.healTimeout())
	defer cancel()

	// What the replay needs is made ready beside the refresh, which waits for
	// nothing and is not left out for anything: the browser's own next attempt
	// must not meet the refused token again.
	readyCtx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	replayable := make(chan bool, 1)
	go func() {
		keepAnswer(first, h.request.Method)
		replayable <- h.body == nil || h.body.settle(readyCtx)
	}()
	fresh, err := h.grant.Source.Refresh(ctx, h.refused)
	usable := err == nil && fresh != h.refused && sendable(fresh)
	if !usable {
		giveUp()
	}
	ready := <-replayable

	switch {
	case err != nil:
		h.log(ctx, slog.LevelDebug, "upstream refused access token; no fresh one", slog.Any("error", err))
		h.replayed(reqCtx, ReplayRefreshFailed)
		return out, first
	case !usable:
		h.log(ctx, slog.LevelWarn, "upstream refused access token; refreshed one is unusable")
		h.replayed(reqCtx, ReplayRefreshFailed)
		return out, first
	case !ready:
		h.log(ctx, slog.LevelDebug, "upstream refused access token; request body is gone")
		h.replayed(reqCtx, ReplayBodyGone)
		return out, first
	}

	again, second, err := h.resend(fresh)
	if err != nil {
		h.log(ctx, slog.LevelWarn, "replay failed; first answer stands", slog.Any("error", err))
		h.replayed(reqCtx, ReplayFailed)
		return out, first
	}
	_ = first.Body.Close()
	h.refused = fresh
	again, second, result := h.proveAgain(again, second)
	if second.StatusCode == http.StatusUnauthorized {
		if result == "" || result == ReplayProved {
			result = ReplayRefused
		}
		h.replayed(reqCtx, result)
		return again, second
	}
	h.grant.accepted(fresh)
	h.replayed(reqCtx, ReplayHealed)
	return again, second
}
