// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"
)

//go:embed client.js
var clientSource []byte

// clientModule is the ES module for the application, with the CSRF header of
// this configuration in it. It has no secrets: the header is there to be sent.
type clientModule struct {
	source []byte
	etag   string
}

func newClientModule(csrfName, csrfValue string) *clientModule {
	header, err := json.Marshal([2]string{csrfName, csrfValue})
	if err != nil {
		panic("bff: " + err.Error()) // texts always encode
	}
	source := bytes.Replace(clientSource, []byte(`["X-CSRF", "1"]`), header, 1)
	sum := sha256.Sum256(source)
	return &clientModule{source: source, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
}

// serveClientModule serves the module; browsers ask again each time and get 304.
func (hd *handle) serveClientModule(w http.ResponseWriter, r *http.Request) error {
	m := hd.bff.clientModule
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("ETag", m.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.source))
	return nil
}
