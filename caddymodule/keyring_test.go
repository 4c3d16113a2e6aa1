// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
)

// Instances that start together agree on one ring, and find it again.
func TestStoredRingIsMadeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	rings := make([][]session.RingKey, 3)
	for i := range rings {
		wg.Go(func() {
			keys, err := (&storedRing{first: &certmagic.FileStorage{Path: dir}}).LoadRing(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			rings[i] = keys
		})
	}
	wg.Wait()
	for _, r := range rings {
		if len(r) != 1 || len(r[0].Secret) != session.MinKeySize || !bytes.Equal(r[0].Secret, rings[0][0].Secret) {
			t.Fatalf("rings differ: %d", len(r))
		}
	}
}

// A ring that cannot be read is never replaced: that would sign everybody out.
func TestStoredRingThatIsNone(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "{", `{"version":2,"keys":[{"secret":"x"}]}`, `{"version":1,"keys":[]}`, `{"version":1,"keys":"canary"}`} {
		dir := t.TempDir()
		file := filepath.Join(dir, "bff", "key_ring.json")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&storedRing{first: &certmagic.FileStorage{Path: dir}}).LoadRing(t.Context())
		if err == nil {
			t.Errorf("%q: no error", content)
		} else if bytes.Contains([]byte(err.Error()), []byte("canary")) {
			t.Errorf("%q: quoted: %v", content, err)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != content {
			t.Errorf("%q became %q, %v", content, after, err)
		}
	}
}

// The storage of the newest configuration that runs is the one that counts.
func TestStoredRingFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	bad := failingStorage{}
	good := &certmagic.FileStorage{Path: t.TempDir()}
	k := &storedRing{first: bad}
	if _, err := k.LoadRing(t.Context()); !errors.Is(err, errFailing) {
		t.Errorf("first: %v", err)
	}
	removeGood := k.use(good)
	removeBad := k.use(bad)
	if _, err := k.LoadRing(t.Context()); !errors.Is(err, errFailing) {
		t.Errorf("newest: %v", err)
	}
	removeBad()
	removeBad() // a second time is nothing
	if _, err := k.LoadRing(t.Context()); err != nil {
		t.Errorf("the one before: %v", err)
	}
	removeGood()
	if _, err := k.LoadRing(t.Context()); !errors.Is(err, errFailing) {
		t.Errorf("none: %v", err)
	}
}

var errFailing = errors.New("storage is out")

type failingStorage struct{ certmagic.Storage }

func (failingStorage) Load(context.Context, string) ([]byte, error) { return nil, errFailing }

// Keys that are exchanged in their file: with the reload the new one seals, and
// one that was taken off opens nothing any more.
func TestKeysExchangedByReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	k1, k2, k3 := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	write := func(keys ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Join(keys, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(k1)
	b := newBench(t, benchOptions{keys: "keys {file." + path + "}"})
	before := b.browser().login()
	write(k2, k1)
	b.load()
	after := b.browser().login()
	if !before.signedIn() || !after.signedIn() {
		t.Error("a new first key signed somebody out")
	}
	write(k2)
	b.load()
	if before.signedIn() || !after.signedIn() {
		t.Errorf("without the old key: its session %t, the new key's %t", before.signedIn(), after.signedIn())
	}
	write(k3)
	b.load()
	if after.signedIn() {
		t.Error("a session of a key that is gone is alive")
	}
	write("short")
	if err := caddy.Load(b.config, true); err == nil {
		t.Error("a short key was taken")
	}
	if c := b.browser().login(); !c.signedIn() {
		t.Error("a bad file of keys took the good ones away")
	}
}

// A ring that was read once is never made again by the same process: storage that
// is out, or was emptied, signs nobody out.
func TestStoredRingThatHasGone(t *testing.T) {
	dir := t.TempDir()
	ring := &storedRing{first: &certmagic.FileStorage{Path: dir}}
	before, err := ring.LoadRing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	away := dir + ".away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	if keys, err := ring.LoadRing(t.Context()); err == nil {
		t.Fatalf("made anew: %d keys", len(keys))
	}
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	after, err := ring.LoadRing(t.Context())
	if err != nil || !bytes.Equal(after[0].Secret, before[0].Secret) {
		t.Errorf("back again: %v", err)
	}
}

// A file of keys that is gone is told, and what was read stays.
func TestKeysThatHaveGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, bytes.Repeat([]byte("k"), 40), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := newConfiguredRing([]string{"{file." + path + "}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func() error{func() error { return os.WriteFile(path, nil, 0o600) }, func() error { return os.Remove(path) }} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if keys, err := c.LoadRing(t.Context()); err == nil || strings.Contains(err.Error(), "kkk") {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	}
}

// E108: a stored ring gets a new key by age: one for all instances, which opens
// before it seals, and finds what was indexed before. What was sealed stays open.
func TestStoredRingIsRotated(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		load := func() []session.RingKey {
			t.Helper()
			rings := make([][]session.RingKey, 3)
			var wg sync.WaitGroup
			for i := range rings {
				wg.Go(func() {
					keys, err := (&storedRing{first: &certmagic.FileStorage{Path: dir}}).LoadRing(t.Context())
					if err != nil {
						t.Error(err)
					}
					rings[i] = keys
				})
			}
			wg.Wait()
			for _, r := range rings {
				if len(r) == 0 || len(r) != len(rings[0]) || !bytes.Equal(r[0].Secret, rings[0][0].Secret) {
					t.Fatal("instances have different rings")
				}
			}
			return rings[0]
		}
		has := func(keys []session.RingKey, k session.RingKey) bool {
			return slices.ContainsFunc(keys, func(o session.RingKey) bool { return bytes.Equal(o.Secret, k.Secret) })
		}
		first := load()[0]
		time.Sleep(ringKeyAge - time.Minute)
		if keys := load(); len(keys) != 1 {
			t.Fatalf("%d keys before the age", len(keys))
		}
		time.Sleep(time.Minute)
		keys := load()
		if len(keys) != 2 || !bytes.Equal(keys[0].Secret, first.Secret) {
			t.Fatalf("%d keys; the new one seals before others open with it", len(keys))
		}
		second := keys[1]
		if !bytes.Equal(second.IndexRoot, first.Successor().IndexRoot) {
			t.Error("what was indexed under the first key is not found with the second")
		}
		time.Sleep(ringKeyNotice)
		if keys = load(); len(keys) != 2 || !bytes.Equal(keys[0].Secret, second.Secret) || !has(keys, first) {
			t.Error("after the notice the new key does not seal, or the old one does not open")
		}
		for range 12 {
			time.Sleep(ringKeyAge + ringKeyNotice)
			keys = load()
		}
		if has(keys, first) || len(keys) < 3 || len(keys) > 8 {
			t.Errorf("%d keys after three years, the first among them: %t", len(keys), has(keys, first))
		}
		for _, k := range keys {
			if !bytes.Equal(k.IndexRoot, second.IndexRoot) {
				t.Error("a key with another index root")
			}
		}
		time.Sleep(10 * time.Second) // the storage's own goroutines look after its locks
	})
}

// CONTRACT 1 and 4: an instance whose keys are not those of the Redis that it
// shares refuses logins with 503 key_mismatch, wherever they are, and its log says
// how to mend it. With the right keys it works within seconds, and nobody was
// signed out meanwhile.
func TestKeyMismatch(t *testing.T) {
	server := redistest.Start(t)
	path := filepath.Join(t.TempDir(), "keys")
	ours, theirs := strings.Repeat("1", 40), strings.Repeat("2", 40)
	write := func(keys ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Join(keys, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ours)
	b := newBench(t, benchOptions{store: "redis {\naddress " + server.Address() + "\n}", keys: "keys {file." + path + "}"})
	signedIn, late := b.browser().login(), b.browser()
	callback := late.authorize(late.startLogin("/after"))

	write(theirs)
	b.load()
	refused := func(a *answer) {
		t.Helper()
		a.wantError(t, http.StatusServiceUnavailable, codeKeyMismatch)
		if a.Header.Get("Retry-After") != "5" || strings.Contains(a.body, "bff:") {
			t.Errorf("%v: %s", a.Header, a.body)
		}
	}
	c := b.browser()
	page := c.get("/bff/login?return_to=/x", navigate...)
	refused(page)
	if !strings.Contains(page.Header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, codeKeyMismatch) {
		t.Errorf("the page: %v %s", page.Header, page.body)
	}
	problem := c.do(http.MethodPost, "/bff/login", "", script...)
	refused(problem)
	if got := problem.json(t); got["code"] != codeKeyMismatch || got["retry_after"] != 5.0 || got["status"] != 503.0 {
		t.Errorf("the problem: %v", got)
	}
	logins := len(late.jar)
	refused(late.get(callback, with(navigate)...))
	if len(late.jar) != logins || len(b.as.Requests(astest.Token)) != 1 {
		t.Errorf("the login that came back was touched: %v", late.jar)
	}
	for _, want := range []string{"give all instances the same keys", `"entry":"bff:n:{keys}"`, `"keys_in_store":["`, `"keys_here":["`} {
		if !strings.Contains(b.log(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	if strings.Contains(b.log(), ours) || strings.Contains(b.log(), theirs) {
		t.Error("a key is in the log")
	}
	if a := c.get("/other"); a.StatusCode != http.StatusOK || !strings.HasPrefix(a.body, "open") {
		t.Errorf("what is open: %d %s", a.StatusCode, a.body)
	}

	write(ours)
	b.load()
	start := time.Now()
	if a := late.get(callback, with(navigate)...); a.StatusCode != http.StatusSeeOther || a.location() != "/after" {
		t.Errorf("the login that came back: %d %s", a.StatusCode, a.body)
	}
	c.login()
	if got := signedIn.get("/bff/session", script...).json(t); got["authenticated"] != true {
		t.Errorf("who was signed in: %v", got)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}

	// The wrong keys came first: it is mended by hand, without a reload.
	write(theirs)
	b.load()
	refused(c.get("/bff/login?force=true", navigate...))
	server.Must("DEL", "bff:n:{keys}")
	redistest.Eventually(t, "logins are taken", func() error {
		if a := c.get("/bff/login?force=true", navigate...); a.StatusCode != http.StatusFound {
			return errors.New(a.body)
		}
		return nil
	})
}
