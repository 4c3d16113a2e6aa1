// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Bounds of what is read of a first answer that may still be needed.
const (
	maxKeptAnswer  = 64 << 10
	keepAnswerTime = time.Second
)

// keepAnswer reads the body of resp into memory and closes it, so that its
// connection is free for the replay. A body that is too long or too slow is
// given up, and the answer has none then.
func keepAnswer(resp *http.Response, method string) {
	if resp.Body == nil || resp.Body == http.NoBody {
		resp.Body = http.NoBody
		return
	}
	body := resp.Body
	hurry := time.AfterFunc(keepAnswerTime, func() { _ = body.Close() })
	data, err := io.ReadAll(io.LimitReader(body, maxKeptAnswer+1))
	hurry.Stop()
	_ = body.Close()
	if err == nil && len(data) <= maxKeptAnswer {
		resp.Body = io.NopCloser(bytes.NewReader(data))
		return
	}
	resp.Body = http.NoBody
	if method == http.MethodHead {
		return // the length is that of a body which is never sent
	}
	resp.ContentLength = 0
	resp.TransferEncoding = nil
	resp.Trailer = nil
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	resp.Header["Content-Length"] = []string{"0"}
	delete(resp.Header, "Content-Encoding")
}

// plainAnswer makes an answer without a body for a request that never went to
// the resource server.
func plainAnswer(req *http.Request, status int) *http.Response {
	return &http.Response{
		Status:     strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode: status,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{"Cache-Control": {"no-store"}, "Content-Length": {"0"}},
		Body:       http.NoBody,
		Request:    req,
	}
}
