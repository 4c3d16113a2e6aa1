// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
)

// CONTRACT 1: an instance with another ring takes no logins, neither those that
// begin on it nor those that come back to it, and says what to do. Nothing of the
// others is touched, and when it has their keys it is one of them.
func TestKeyMismatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		key, other := session.NewRingKey(), session.NewRingKey()
		right, wrong := f.instance(key), f.instance(other)
		br := browser{}
		right.login(br)

		mismatch := wrong.refused()
		if len(mismatch.There) != 1 || len(mismatch.Here) != 1 || slices.Equal(mismatch.There, mismatch.Here) || mismatch.Place != "place of keys" {
			t.Errorf("%+v", mismatch)
		}
		for _, want := range append([]string{"level=ERROR", "place of keys", "give all instances the same keys", "delete the entry"}, append(mismatch.There, mismatch.Here...)...) {
			if !strings.Contains(wrong.log.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, wrong.log)
			}
		}
		if strings.Contains(right.log.String(), "keys") {
			t.Errorf("the log of the others:\n%s", right.log)
		}

		// The response to a login that began elsewhere is left to who can take it.
		late := browser{}
		params := right.begin(late)
		_, err := wrong.finish(late, params)
		failed, ok := errors.AsType[*session.LoginError](err)
		if _, why := errors.AsType[*session.KeyMismatchError](err); !ok || !why || failed.Kind != session.LoginUnavailable {
			t.Fatalf("a login came back: %v", err)
		}
		if _, err := right.finish(late, params); err != nil {
			t.Errorf("its response was spent: %v", err)
		}
		right.mustToken(br)
		if _, err := wrong.m.BackchannelLogout(t.Context(), wrong.logoutToken("alice", "")); !errors.As(err, &mismatch) {
			t.Errorf("sessions that cannot be found were promised to be over: %v", err)
		}
		if _, err := wrong.m.FrontchannelLogout(t.Context(), wrong.as.Issuer(), "sid"); !errors.As(err, &mismatch) {
			t.Errorf("front-channel: %v", err)
		}

		wrong.reload(key)
		wrong.accepted()
		wrong.mustToken(br)
		wrong.login(browser{})
		if !strings.Contains(wrong.log.String(), "takes logins again") {
			t.Error("the log does not say that it is over")
		}
	})
}

// A login that began here, before the others came to the store, does not end here
// any more: its response is not claimed, and its code not spent.
func TestKeyMismatchSinceTheLoginBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		wrong := f.instance(session.NewRingKey())
		br := browser{}
		params := wrong.begin(br)
		f.change(func() { clear(f.sets) })
		f.instance(session.NewRingKey())
		time.Sleep(35 * time.Second)
		_, err := wrong.finish(br, params)
		if _, ok := errors.AsType[*session.KeyMismatchError](err); !ok || br.logins() != 1 {
			t.Errorf("%v, %d login cookies", err, br.logins())
		}
		if n := f.as.Count(astest.Token); n != 0 {
			t.Errorf("%d codes were sent", n)
		}
		f.change(func() { clear(f.sets) })
		time.Sleep(3 * time.Second)
		if _, err := wrong.finish(br, params); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// The wrong ring came first: the right ones are told which entry to delete. When
// it is gone they are let in within seconds, and the wrong one is refused; whose
// session it can open stays signed in there.
func TestWrongKeysCameFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		key := session.NewRingKey()
		wrong := f.instance(session.NewRingKey())
		br := browser{}
		wrong.login(br)
		one, two := f.instance(key), f.instance(key)
		one.refused()
		two.refused()
		time.Sleep(10 * time.Second)
		one.refused()
		f.change(func() { delete(f.sets, "keys") })
		time.Sleep(3 * time.Second)
		one.accepted()
		two.accepted()
		time.Sleep(30 * time.Second)
		wrong.refused()
		s := mustOpen(t, wrong.bench, br)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Errorf("a session that opens does not go on: %v", err)
		}
		if n := strings.Count(one.log.String(), "other keys"); n != 1 {
			t.Errorf("said %d times in ten seconds", n)
		}
	})
}

// CONTRACT 1, DESIGN 4: the rings of a rotation succeed each other, in both
// orders, one instance after the other, whether somebody signs in meanwhile or
// not.
func TestKeyRotationIsNoMismatch(t *testing.T) {
	a, b, c := session.NewRingKey(), session.NewRingKey(), session.NewRingKey()
	handed := a.Successor() // with the index root of a
	for name, rings := range map[string][][]session.RingKey{
		"opens first":     {{a}, {a, b}, {b, a}, {b}},
		"seals at once":   {{a}, {b, a}, {b}},
		"there and back":  {{a}, {a, b}, {b}, {b, a}, {a}},
		"twice":           {{a}, {b, a}, {c, b, a}, {c, b}, {c}},
		"by Caddy itself": {{a}, {a, handed}, {handed, a}, {handed}},
	} {
		for _, quiet := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, quiet %t", name, quiet), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t)
					var all []*member
					for range 3 {
						all = append(all, f.instance(rings[0]...))
					}
					for _, ring := range rings[1:] {
						for _, m := range all {
							m.source.set(ring...) // a file that changes
							time.Sleep(90 * time.Second)
							for _, m := range all {
								if !quiet {
									m.login(browser{})
								}
							}
						}
					}
					for _, m := range all {
						m.login(browser{})
						if strings.Contains(m.log.String(), "other keys") {
							t.Errorf("the log:\n%s", m.log)
						}
					}
					// Only the keys of before do not come back with another's.
					f.instance(session.NewRingKey()).refused()
				})
			})
		}
	}
}

// Keys that are exchanged without a step in between are other keys, also where
// they have an index root in common: what one seals the other does not open.
func TestIndexRootIsNoKeyInCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		a := session.NewRingKey()
		f.instance(a)
		f.instance(a.Successor()).refused()
	})
}

// A store that cannot say is no mismatch: a login begins, as it does without this
// check, and ends when the store is there. Nobody asks more often than need be.
func TestKeyCheckWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		out := fmt.Errorf("%w: out", session.ErrStoreUnavailable)
		f.change(func() { f.fail = out })
		key := session.NewRingKey()
		m := f.instance(key)
		br := browser{}
		params := m.begin(br)
		_, err := m.finish(br, params)
		failed, ok := errors.AsType[*session.LoginError](err)
		if _, why := errors.AsType[*session.KeyMismatchError](err); !ok || why || failed.Kind != session.LoginUnavailable || !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("without the store: %v", err)
		}
		f.change(func() { f.fail = nil })
		if _, err := m.finish(br, params); err != nil {
			t.Errorf("with the store: %v", err)
		}
		f.change(func() { f.fail = out })
		time.Sleep(time.Minute)
		m.accepted() // it was let in, and nothing says otherwise
		if strings.Contains(m.log.String(), "keys") {
			t.Errorf("the log:\n%s", m.log)
		}

		f.change(func() { f.fail = nil })
		time.Sleep(3 * time.Second)
		f.asked()
		for range 100 {
			m.accepted()
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.asked(); n > 1 {
			t.Errorf("the store was asked %d times in ten seconds, with a yes", n)
		}
		m.reload(session.NewRingKey())
		m.refused()
		f.asked()
		for range 100 {
			m.refused()
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.asked(); n < 4 || n > 6 {
			t.Errorf("the store was asked %d times in ten seconds, with a no", n)
		}
	})
}

// A store that was emptied knows again who belongs together before anybody signs
// in; of strangers who come to an empty one at the same moment one is let in.
func TestEmptiedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		key := session.NewRingKey()
		f.instance(key)
		f.change(func() { clear(f.sets) })
		time.Sleep(35 * time.Second)
		f.instance(session.NewRingKey()).refused()

		f.change(func() { clear(f.sets) })
		var errs [5]error
		var wg sync.WaitGroup
		for i := range errs {
			m := withKeys(t, f.as, &sharedStore{f.store, f.meeting}, session.NewRingKey())
			wg.Go(func() { errs[i] = m.start() })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			}
		}
		if won != 1 {
			t.Errorf("%d of %d were let in: %v", won, len(errs), errs)
		}
	})
}

// The check is that of the configurations that run: it ends with the last one of
// them, or with its store, and begins when the store is opened. (A goroutine that
// is left over fails the test.)
func TestKeyCheckEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		m := f.instance(session.NewRingKey())
		again := m.backend.Join(m.ring)
		m.leave()
		f.asked()
		time.Sleep(65 * time.Second)
		if n := f.asked(); n != 2 {
			t.Errorf("asked %d times in a minute", n)
		}
		again()
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		if n := f.asked(); n != 0 {
			t.Errorf("asked %d times after the end", n)
		}
		m.accepted() // a request of a configuration that is gone
		m.leave = func() {}

		store := &sharedStore{f.store, f.meeting}
		late := session.NewBackend(func(context.Context) (session.Store, error) { return store, nil }, discard())
		late.Join(m.ring)
		time.Sleep(time.Minute)
		f.asked()
		if err := late.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := f.asked(); n != 1 {
			t.Errorf("asked %d times as the store was opened", n)
		}
		late.Release()
	})
}

// A store of one process is asked nothing.
func TestNoKeyCheckAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		withKeys(t, b.as, b.store, session.NewRingKey()).accepted()
		withKeys(t, b.as, b.store, session.NewRingKey()).login(browser{})
	})
}

// Over one real Redis.
func TestKeyMismatchOverRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	as := astest.New(astest.Options{})
	old, next := session.NewRingKey(), session.NewRingKey()
	one := withKeys(t, as, redisAt(t, server), old)
	br := browser{}
	one.login(br)
	two := withKeys(t, as, redisAt(t, server), next)
	mismatch := two.refused()
	if server.Must("ZRANGE", mismatch.Place, "0", "-1") != mismatch.There[0] {
		t.Errorf("%+v", mismatch)
	}
	two.reload(next, old)
	two.accepted()
	two.mustToken(br)
	two.login(browser{})
	one.accepted()
	one.mustToken(br)
	one.reload(next)
	one.login(browser{})
	if strings.Contains(one.log.String(), "other keys") {
		t.Errorf("the log:\n%s", one.log)
	}
	// The mend by hand.
	server.Must("DEL", mismatch.Place)
	three := withKeys(t, as, redisAt(t, server), session.NewRingKey())
	three.accepted()
	two.reload(next, session.NewRingKey())
	two.refused()
	// Whoever is there first counts, so the other has to be gone.
	three.leave()
	three.leave = func() {}
	server.Must("DEL", mismatch.Place)
	redistest.Eventually(t, "a login is taken", two.start)
}
