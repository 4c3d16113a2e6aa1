// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// browser goes between the gateway and the authorization server as a browser does:
// it keeps cookies and honours SameSite, follows redirects, submits the forms that
// submit themselves and pages that load themselves anew, and tells by Sec-Fetch-Site where a request comes from.
type browser struct {
	t       *testing.T
	home    string // origin of the application
	cookies []*cookie
}

type cookie struct {
	*http.Cookie
	host string
}

// page is an answer, read to its end.
type page struct {
	*http.Response
	url  *url.URL
	body string
}

// code is that of an answer that the gateway made up itself.
func (p *page) code() string { return p.Header.Get("X-BFF-Error") }

func (p *page) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(p.body), &v); err != nil {
		t.Fatalf("%s: no JSON (status %d): %v: %s", p.url.Path, p.StatusCode, err, p.body)
	}
	return v
}

// visit goes to an address as if it had been typed, and on to where that leads. It
// returns every answer on the way.
func (b *browser) visit(target string) []*page {
	b.t.Helper()
	return b.follow(http.MethodGet, target, "", "none", "")
}

// clickAt is visit from a page of that origin.
func (b *browser) clickAt(origin, target string) []*page {
	b.t.Helper()
	from := "cross-site"
	if site(parse(b.t, origin)) == site(parse(b.t, target)) {
		from = "same-origin"
	}
	return b.follow(http.MethodGet, target, "", from, "")
}

func (b *browser) follow(method, target, body, from, origin string) []*page {
	b.t.Helper()
	var way []*page
	for range 10 {
		header := []string{"Sec-Fetch-Site", from, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}
		if method == http.MethodPost {
			header = append(header, "Content-Type", "application/x-www-form-urlencoded", "Origin", origin)
		}
		p := b.send(method, target, body, from == "cross-site", header)
		way = append(way, p)
		next := p.url
		switch action, form := autoForm(p.body); {
		case p.Header.Get("Location") != "":
			next = p.url.ResolveReference(parse(b.t, p.Header.Get("Location")))
			method, body = http.MethodGet, ""
		case strings.Contains(p.body, `<meta http-equiv="refresh" content="0">`):
			from = "same-origin" // the page itself asks for what it is at
			continue
		case action != "":
			next = p.url.ResolveReference(parse(b.t, action))
			method, body, origin = http.MethodPost, form.Encode(), p.url.Scheme+"://"+p.url.Host
		default:
			return way
		}
		// Whoever has been at another site on the way comes from there.
		switch {
		case site(next) != site(p.url):
			from = "cross-site"
		case from == "none":
			from = "same-origin"
		}
		target = next.String()
	}
	b.t.Fatalf("more than ten redirects, the last to %s", target)
	return nil
}

// frame loads an address in a frame of a page of another site.
func (b *browser) frame(target string) *page {
	b.t.Helper()
	return b.send(http.MethodGet, target, "", true, []string{
		"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html",
	})
}

// call is a request by a script of the application.
func (b *browser) call(method, path string) *page {
	b.t.Helper()
	return b.send(method, b.home+path, "", false, []string{
		"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*", "X-CSRF", "1",
	})
}

// send sends one request. cross: a page of another site made it.
func (b *browser) send(method, target, body string, cross bool, header []string) *page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	topLevelGet := method == http.MethodGet && slices.Contains(header, "document")
	for _, c := range b.cookies {
		if c.host == r.URL.Host && (!cross || c.SameSite == http.SameSiteNoneMode || c.SameSite == http.SameSiteLaxMode && topLevelGet) {
			r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		}
	}
	c := *overTLS
	c.Timeout = 30 * time.Second
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, set := range res.Cookies() {
		b.cookies = slices.DeleteFunc(b.cookies, func(old *cookie) bool { return old.Name == set.Name && old.host == r.URL.Host })
		if set.MaxAge >= 0 {
			b.cookies = append(b.cookies, &cookie{set, r.URL.Host})
		}
	}
	return &page{Response: res, url: r.URL, body: string(text)}
}

// site is what browsers compare: the scheme and the name, whatever the port.
func site(u *url.URL) string { return u.Scheme + "://" + u.Hostname() }

func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var (
	autoSubmit  = regexp.MustCompile(`onload="document\.forms\[0\]\.submit\(\)"><form method="post" action="([^"]*)">`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// autoForm reads a page that posts itself; action is "" for any other page.
func autoForm(body string) (action string, form url.Values) {
	found := autoSubmit.FindStringSubmatch(body)
	if found == nil {
		return "", nil
	}
	form = url.Values{}
	for _, field := range hiddenField.FindAllStringSubmatch(body, -1) {
		form.Add(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	return html.UnescapeString(found[1]), form
}
