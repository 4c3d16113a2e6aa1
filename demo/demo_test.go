// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a signed-in, or not yet signed-in, user of the page.
type browser struct {
	*testing.T
	address string
	http    *http.Client
}

// do sends a request as a form or a script does.
func (b *browser) do(method, address string, form url.Values) (*http.Response, string) {
	b.Helper()
	request, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return b.send(request)
}

// navigate opens an address as a browser does.
func (b *browser) navigate(address string) (*http.Response, string) {
	b.Helper()
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Accept", "text/html")
	return b.send(request)
}

func (b *browser) send(request *http.Request) (*http.Response, string) {
	b.Helper()
	response, err := b.http.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return response, string(body)
}

func (b *browser) json(method, path string, status int) map[string]any {
	b.Helper()
	request, err := http.NewRequest(method, b.address+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("X-CSRF", "1") // as client.js does
	response, body := b.send(request)
	if response.StatusCode != status {
		b.Fatalf("%s %s: %d %s", method, path, response.StatusCode, body)
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		b.Fatalf("%s %s: %v in %s", method, path, err, body)
	}
	return answer
}

// signIn follows the login to the page of the authorization server, fills in its form and follows back.
func (b *browser) signIn() {
	b.Helper()
	response, page := b.navigate(b.address + "/bff/login?return_to=/")
	request := regexp.MustCompile(`name="request" value="(\w+)"`).FindStringSubmatch(page)
	if request == nil {
		b.Fatalf("no login form: %d %s", response.StatusCode, page)
	}
	form := url.Values{"request": {request[1]}, "username": {users[0].Username}, "password": {users[0].Password}}
	action := response.Request.URL.ResolveReference(&url.URL{Path: "/login"})
	if response, page = b.do(http.MethodPost, action.String(), form); response.Request.URL.String() != b.address+"/" {
		b.Fatalf("signing in ended at %s: %d %s", response.Request.URL, response.StatusCode, page)
	}
}

func (b *browser) generation() string {
	b.Helper()
	answer := b.json(http.MethodGet, "/api/hello", http.StatusOK)
	if answer["sub"] != users[0].ID {
		b.Fatalf("%v", answer)
	}
	return answer["generation"].(string)
}

// events counts what has happened.
func (b *browser) events() map[string]int {
	b.Helper()
	counts := map[string]int{}
	for _, e := range b.json(http.MethodGet, "/api/demo/events?after=0", http.StatusOK)["events"].([]any) {
		counts[e.(map[string]any)["kind"].(string)]++
	}
	return counts
}

// waitFor waits until an event of the kind has happened n times. Questions asked while the gateway is away are asked again.
func (b *browser) waitFor(kind string, n int) {
	b.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := b.http.Get(b.address + "/bff/session")
		if err == nil {
			response.Body.Close()
			if b.events()[kind] >= n {
				return
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not happen %d times", kind, n)
		}
	}
}

// The whole demo, as a visitor would use it; its access tokens live two seconds here.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	d, err := newDemo(options{port: 0, tokenLifetime: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error)
	go func() { ran <- serve(ctx, d, options{tokenLifetime: 2 * time.Second}, &out) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("stopping: %v", err)
		}
		if _, err := os.Stat(d.data); !os.IsNotExist(err) {
			t.Errorf("%s is left behind: %v", d.data, err)
		}
		for _, want := range []string{d.address, "alice", "wonderland"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not printed:\n%s", want, out.String())
			}
		}
	}()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{T: t, address: d.address, http: &http.Client{Jar: jar, Timeout: 30 * time.Second}}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if response, err := b.http.Get(b.address); err == nil {
			response.Body.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	response, page := b.navigate(b.address + "/any/path")
	if response.StatusCode != http.StatusOK || !strings.Contains(page, `id="sign-in"`) || !strings.Contains(response.Header.Get("Content-Security-Policy"), "script-src 'self'") {
		t.Fatalf("the page: %d, %v", response.StatusCode, response.Header)
	}
	if response, _ := b.do(http.MethodGet, b.address+"/bff/client.js", nil); response.StatusCode != http.StatusOK || !strings.Contains(response.Header.Get("Content-Type"), "javascript") {
		t.Fatalf("client.js: %d %v", response.StatusCode, response.Header)
	}
	b.json(http.MethodGet, "/api/hello", http.StatusUnauthorized)
	b.signIn()
	if user := b.json(http.MethodGet, "/bff/session", http.StatusOK)["user"].(map[string]any); user["name"] != users[0].Name {
		t.Errorf("user %v", user)
	}

	t.Run("calls across expiries", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		generations := map[string]bool{}
		for end := time.Now().Add(7 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			generations[b.generation()] = true
		}
		if len(generations) < 3 {
			t.Errorf("%d access tokens in seven seconds", len(generations))
		}
		if counts := b.events(); counts["refreshed"] < len(generations)-1 || counts["refused"] != 0 || counts["reused"] != 0 {
			t.Errorf("%d access tokens, %v", len(generations), counts)
		}
	})

	t.Run("calls at once", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		before := b.events()["refreshed"]
		time.Sleep(4 * time.Second) // the access token has run out
		var generations sync.Map
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				response, err := b.http.Get(b.address + "/api/hello")
				if err != nil {
					t.Error(err)
					return
				}
				defer response.Body.Close()
				var answer struct{ Generation string }
				if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("%d, %v", response.StatusCode, err)
				}
				generations.Store(answer.Generation, true)
			})
		}
		wg.Wait()
		n := 0
		generations.Range(func(any, any) bool { n++; return true })
		// On a slow machine the calls may last until the next access token is due.
		if counts := b.events(); counts["reused"] != 0 || n > 2 || counts["refreshed"]-before > 2 {
			t.Errorf("%d access tokens, %d refreshes before, then %v", n, before, counts)
		}
	})

	t.Run("revoke the access token", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		before := b.generation()
		b.json(http.MethodPost, "/api/demo/revoke", http.StatusOK)
		if after := b.generation(); after == before {
			t.Error("the API took a revoked token")
		}
		if counts := b.events(); counts["revoked"] != 1 || counts["reused"] != 0 {
			t.Errorf("%v", counts)
		}
	})

	t.Run("authorization server down", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		b.json(http.MethodPost, "/api/demo/outage?seconds=4", http.StatusOK)
		held := 0
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			switch response, body := b.do(http.MethodGet, b.address+"/api/hello", nil); {
			case response.StatusCode == http.StatusOK:
			case response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != "":
				held++
			default:
				t.Fatalf("%d %s", response.StatusCode, body)
			}
		}
		if held == 0 {
			t.Error("the access token ran out, and nobody was told to wait")
		}
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if response, _ := b.do(http.MethodGet, b.address+"/api/hello", nil); response.StatusCode == http.StatusOK {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("not back: %d", response.StatusCode)
			}
		}
	})

	t.Run("restart the gateway", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		b.json(http.MethodPost, "/api/demo/restart", http.StatusAccepted)
		b.waitFor("gateway_restarted", 1)
		b.generation()
	})

	t.Run("sign out", func(t *testing.T) {
		b := &browser{t, b.address, b.http}
		answer := b.json(http.MethodPost, "/bff/logout", http.StatusOK)
		response, _ := b.navigate(answer["logout_url"].(string))
		if response.Request.URL.String() != b.address+"/" {
			t.Errorf("signing out ended at %s", response.Request.URL)
		}
		b.json(http.MethodGet, "/api/hello", http.StatusUnauthorized)
	})
	secrets(t, d)
}

// secrets looks for tokens and codes in the logs.
func secrets(t *testing.T, d *demo) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(d.data, "*.log"))
	if err != nil || len(logs) < 2 {
		t.Fatalf("logs: %v, %v", logs, err)
	}
	for _, name := range logs {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range []string{`eyJ[\w-]{10,}\.eyJ`, `code=[\w%-]{20,}`} {
			if found := regexp.MustCompile(pattern).Find(raw); found != nil {
				t.Errorf("%s holds %.40s…", filepath.Base(name), found)
			}
		}
	}
}
