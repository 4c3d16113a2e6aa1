// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser is an HTTP client that behaves as a browser does as far as the
// gateway can tell: it keeps cookies, follows navigations over origins with the
// Sec-Fetch headers that belong to them, and fetches with the CSRF header.
type browser struct {
	origin string
	client *http.Client
}

func newBrowser(t *testing.T, origin string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{origin: origin, client: &http.Client{
		Jar:           jar,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: 300},
	}}
}

// page is where a navigation ended.
type page struct {
	url    *url.URL
	status int
	body   string
}

// navigate goes to a URL as if it was typed, and follows redirects.
func (b *browser) navigate(t *testing.T, target string) page {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.follow(t, req, "none")
}

// submit sends the only form of a page, with a button that was pressed; without a
// name there was none, and a script has sent it.
func (b *browser) submit(t *testing.T, p page, button, value string) page {
	t.Helper()
	action := regexp.MustCompile(`<form[^>]* action="([^"]+)"`).FindStringSubmatch(p.body)
	if action == nil {
		t.Fatalf("no form at %s:\n%s", p.url, p.body)
	}
	target, err := p.url.Parse(html.UnescapeString(action[1]))
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{}
	if button != "" {
		form.Set(button, value)
	}
	for _, input := range regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`).FindAllStringSubmatch(p.body, -1) {
		form.Set(input[1], html.UnescapeString(input[2]))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target.String(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", p.url.Scheme+"://"+p.url.Host)
	site := "same-origin"
	if target.Host != p.url.Host {
		site = "cross-site"
	}
	return b.follow(t, req, site)
}

// follow sends a navigation and goes where its redirects lead. The hosts of the
// bench are sites of their own; a chain that has left its site is cross-site for
// the rest of the way.
func (b *browser) follow(t *testing.T, req *http.Request, site string) page {
	t.Helper()
	for range 20 {
		req.Header.Set("Sec-Fetch-Site", site)
		req.Header.Set("Sec-Fetch-Mode", "navigate")
		req.Header.Set("Sec-Fetch-Dest", "document")
		req.Header.Set("Sec-Fetch-User", "?1")
		req.Header.Set("Upgrade-Insecure-Requests", "1")
		req.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
		res, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		location := res.Header.Get("Location")
		if res.StatusCode < 300 || res.StatusCode > 399 || location == "" {
			return page{url: req.URL, status: res.StatusCode, body: string(body)}
		}
		next, err := req.URL.Parse(location)
		if err != nil {
			t.Fatal(err)
		}
		if next.Hostname() != req.URL.Hostname() && site != "none" {
			site = "cross-site"
		}
		if req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, next.String(), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("too many redirects")
	return page{}
}

// answer is what a fetch got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// fetch calls the gateway as the application's scripts do.
func (b *browser) fetch(ctx context.Context, method, path string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.origin+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	req.Header.Set("Sec-Fetch-Dest", "empty")
	req.Header.Set("X-CSRF", "1")
	if method != http.MethodGet {
		req.Header.Set("Origin", b.origin)
	}
	res, err := b.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, got}, err
}

// json fetches and decodes, and fails unless the answer is 200.
func (b *browser) json(t *testing.T, method, path string, into any) {
	t.Helper()
	got, err := b.fetch(t.Context(), method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.status != http.StatusOK {
		t.Fatalf("%s %s: %s", method, path, got)
	}
	if err := json.Unmarshal(got.body, into); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, got)
	}
}

// cookies gives what the browser would send to the gateway.
func (b *browser) cookies(t *testing.T) []*http.Cookie {
	t.Helper()
	u, err := url.Parse(b.origin)
	if err != nil {
		t.Fatal(err)
	}
	return b.client.Jar.Cookies(u)
}
