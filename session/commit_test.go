// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// refuseCommits makes the store refuse new generations, and nothing else.
func (b *bench) refuseCommits(refuse bool) (refused *atomic.Int64) {
	refused = new(atomic.Int64)
	if !refuse {
		b.store.onReplace(nil)
		return refused
	}
	b.store.onReplace(func(old, next *session.Record) error {
		if next.Gen > old.Gen && next.Ended == "" {
			refused.Add(1)
			return session.ErrStoreUnavailable
		}
		return nil
	})
	return refused
}

// RF-01, RF-15, TK-11, DESIGN 6.5: the store fails between the answer and the
// commit. This process goes on with the tokens, nobody presents the spent refresh
// token, and the tokens are stored as soon as that can be.
func TestStoreFailsAtCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		b.store.exclusive = false
		other := newInstance(t, b.as, b.store)
		br := browser{}
		old := b.login(br)
		before := b.mustToken(br)
		time.Sleep(time.Minute)
		refused := b.refuseCommits(true)
		fresh := b.mustToken(br)
		if fresh == before {
			t.Fatal("an expired token")
		}
		if s, err := b.open(br); err != nil || s.Claims()["sub"] != "alice" {
			t.Errorf("%v", err)
		}
		if _, err := other.token(br); err == nil {
			t.Error("another instance has tokens that are not stored")
		}
		if tok, err := old.Refresh(t.Context(), before); err != nil || tok != fresh {
			t.Errorf("a request that was refused the old token: %q, %v", tok, err)
		}
		b.refreshes(1)

		// The tokens run out while the store still takes nothing: an outage of the
		// store, not of anything else, and no call that could not be stored.
		time.Sleep(time.Minute)
		if _, err := b.token(br); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("got %v", err)
		}
		b.refreshes(1)
		if refused.Load() == 0 {
			t.Error("nothing was refused")
		}
		b.refuseCommits(false)
		time.Sleep(3 * time.Second)
		b.mustToken(br)
		other.mustToken(br)
		b.refreshes(2)
	})
}

// RF-14: logout is final also for tokens that wait to be stored.
func TestLogoutWhileTokensWaitToBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		time.Sleep(time.Minute)
		b.refuseCommits(true)
		b.mustToken(br)
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.ended(br, session.ReasonLoggedOut)
		b.refuseCommits(false)
		time.Sleep(5 * time.Second)
		b.ended(br, session.ReasonLoggedOut)
		for _, r := range b.revoked("refresh_token") {
			if b.as.RefreshTokenLive(r.Token) {
				t.Error("a refresh token is alive")
			}
		}
		if n := len(b.revoked("refresh_token")); n != 2 {
			t.Errorf("%d revocations, want those of both generations", n)
		}
	})
}

// K6, HARDENING G3.5: the process has to end while tokens wait to be stored. The
// next one stores them before it refreshes.
func TestSpool(t *testing.T) {
	spooled := func(t *testing.T, dir string) []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	// leave makes a session whose tokens are in the spool, and a process that ends.
	leave := func(t *testing.T) (b *bench, br browser, dir string) {
		t.Helper()
		dir = filepath.Join(t.TempDir(), "spool")
		b = newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		b.backend.SpoolTo(dir)
		br = browser{}
		b.login(br)
		time.Sleep(time.Minute)
		b.refuseCommits(true)
		b.mustToken(br)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.backend.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		files := spooled(t, dir)
		if len(files) != 1 {
			t.Fatalf("the spool has %q", files)
		}
		if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		return b, br, dir
	}
	// dead is a store handle that an ended process leaves behind.
	next := func(b *bench, dir string) *bench {
		store := &faultyStore{Store: b.store.Store, exclusive: true}
		b.store.setFail(errors.New("the process is gone"))
		n := newInstance(b.t, b.as, store)
		n.backend.SpoolTo(dir)
		return n
	}
	bury := func(b *bench) { // lets the test end: the old flight finds its result stored
		b.store.setFail(nil)
		b.refuseCommits(false)
		time.Sleep(5 * time.Second)
	}
	t.Run("the next process stores them", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, br, dir := leave(t)
			n := next(b, dir)
			n.mustToken(br)
			n.refreshes(1)
			time.Sleep(time.Second)
			if files := spooled(t, dir); len(files) != 0 {
				t.Errorf("the spool still has %q", files)
			}
			time.Sleep(time.Minute)
			n.mustToken(br)
			n.refreshes(2)
			bury(b)
		})
	})
	t.Run("as soon as the store takes them, and nothing before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, br, dir := leave(t)
			n := next(b, dir)
			n.refuseCommits(true)
			for range 10 {
				if _, err := n.token(br); !errors.Is(err, session.ErrStoreUnavailable) {
					t.Fatalf("got %v", err)
				}
				time.Sleep(time.Second)
			}
			n.refreshes(1)
			n.refuseCommits(false)
			time.Sleep(6 * time.Second)
			if files := spooled(t, dir); len(files) != 0 {
				t.Errorf("the spool still has %q", files)
			}
			n.mustToken(br)
			n.refreshes(1)
			bury(b)
		})
	})
	t.Run("not what others have replaced, or ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, br, dir := leave(t)
			n := next(b, "")
			s, err := n.open(br)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Logout(t.Context()); err != nil {
				t.Fatal(err)
			}
			last := next(n, dir)
			last.ended(br, session.ReasonLoggedOut)
			time.Sleep(time.Second)
			if files := spooled(t, dir); len(files) != 0 {
				t.Errorf("the spool still has %q", files)
			}
			// What it had is in the tombstone now, and revoked when that is seen.
			last.ended(br, session.ReasonLoggedOut)
			time.Sleep(time.Second)
			revoked := map[string]bool{}
			for _, r := range last.revoked("refresh_token") {
				revoked[r.Token] = true
			}
			if len(revoked) != 2 {
				t.Errorf("%d refresh tokens were revoked, want those of both generations", len(revoked))
			}
			n.store.setFail(nil)
			bury(b)
		})
	})
	t.Run("also into a store that went back in time", func(t *testing.T) { // F208
		synctest.Test(t, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
			b.backend.SpoolTo(dir)
			br := browser{}
			old := b.stored(b.login(br))
			time.Sleep(time.Minute)
			b.mustToken(br)
			time.Sleep(time.Minute)
			b.refuseCommits(true)
			b.mustToken(br)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := b.backend.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shutdown: %v", err)
			}
			n := next(b, dir)
			n.restore(old)
			n.mustToken(br)
			n.refreshes(2)
			bury(b)
		})
	})
	t.Run("what is no record stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string]string{"a.refreshed": "", "b.refreshed": "\x02future", "c.refreshed": string(make([]byte, 1<<20)), "d": "x", ".spool-1": "x"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := newBench(t, astest.Options{})
			b.backend.SpoolTo(dir)
			br := browser{}
			b.login(br)
			b.mustToken(br)
			if files := spooled(t, dir); len(files) != 5 {
				t.Errorf("left: %q", files)
			}
		})
	})
}
