// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
)

const pageStyle = `:root{color-scheme:light dark}` +
	`body{font:1rem/1.5 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;place-items:center;background:Canvas;color:CanvasText}` +
	`main{max-width:34rem;padding:2rem}h1{font-size:1.4rem;margin:0 0 .5rem}` +
	`a{display:inline-block;margin-top:.5rem;color:LinkText}small{display:block;margin-top:1.5rem;color:GrayText}`

// pageTemplate is every page of the gateway. It runs no script and loads
// nothing; what is put in is escaped by html/template.
var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
{{if .Reload}}<meta http-equiv="refresh" content="0">
{{end}}<title>{{.Title}}</title>
<style>` + pageStyle + `</style>
</head>
<body>
<main>
<h1>{{.Title}}</h1>
<p>{{.Text}}</p>
{{if .Link}}<p><a href="{{.Link}}">{{.LinkText}}</a></p>
{{end}}{{if .Reload}}<p><a href="">Continue</a></p>
{{end}}{{if .RequestID}}<small>{{if .Code}}{{.Code}} · {{end}}Request {{.RequestID}}</small>
{{end}}</main>
</body>
</html>
`))

// pagePolicy allows the page its own style and nothing else.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// page is one page for a person.
type page struct {
	Title, Text    string
	Link, LinkText string
	Code           string
	RequestID      string
	Reload         bool // by itself, once: see reloadPage
}

// reloadPage is the answer to a document that another site sent the browser to
// without the Strict cookie. The request that it makes the browser send comes
// from this site, so the cookie comes along, and the page is not asked for twice.
var reloadPage = page{Title: "One moment", Text: "This page is being opened.", Reload: true}

// write sends the page.
func (p page) write(w http.ResponseWriter, status int) error {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return err
	}
	h := w.Header()
	ownAnswer(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return err
}

// writeReload sends the reload page.
func (hd *handle) writeReload(w http.ResponseWriter) error {
	hd.result = resultReload
	addVary(w.Header(), "Cookie", "Sec-Fetch-Site")
	return reloadPage.write(w, http.StatusOK)
}

// ownAnswer sets what every answer of the gateway has.
func ownAnswer(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}
