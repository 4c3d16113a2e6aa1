// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import "net/http"

// answerHeader returns the header that an answer may be marked in while it is
// made (see upstream.Grant.ResponseHeader): w's on HTTP/1, else nil.
func answerHeader(w http.ResponseWriter, r *http.Request) http.Header {
	if r.ProtoMajor != 1 {
		return nil
	}
	return w.Header()
}

// closeUnread is called before an answer that is made without having read the
// request body. On HTTP/1 it ends the connection with that answer: Caddy's
// readers hide the state of the body from net/http, which could neither tell
// that a client waits for 100 (Continue) nor that what follows on the connection
// is still the body and not a request.
func closeUnread(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
}
