// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

const (
	// stepTimeout bounds one step of a call: a round trip, sent again where that
	// can help. Most calls are one step; Create and a Replace that changes
	// indexes are two.
	stepTimeout = 900 * time.Millisecond
	// lastAttempt is when, since its beginning, a step may be tried again for
	// the last time: connecting anew must fit into what remains.
	lastAttempt = 400 * time.Millisecond
	maxAttempts = 6
	// queueTimeout is how long a call waits for others to end.
	queueTimeout = 500 * time.Millisecond
)

// gate lets a number of calls in at a time.
type gate chan struct{}

// acquire waits no longer than limit. Whoever was let in calls release.
func (g gate) acquire(ctx context.Context, limit time.Duration) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case g <- struct{}{}:
		return nil
	case <-timer.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) release() { <-g }

// begin counts a call, which Close waits for. It reports false when the store is
// closed.
func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.running.Add(1)
	return true
}

// step runs do on the link, again where that can help: a connection that went
// stale is found out by its first use, a server may be starting or handing over.
// repeated says that an earlier attempt may have been executed. Errors that are
// answers come back as they are, all others as ErrStoreUnavailable.
func (s *Store) step(ctx context.Context, do func(ctx context.Context, l *link, repeated bool) error) error {
	if err := ctx.Err(); err != nil {
		return unavailable(ctx.Err())
	}
	if !s.begin() {
		return unavailable(errClosed)
	}
	defer s.running.Done()
	if err := s.gate.acquire(ctx, queueTimeout); err != nil {
		return unavailable(err)
	}
	defer s.gate.release()

	timeout := stepTimeout
	if s.o.WaitReplicas > 0 {
		timeout += s.o.WaitTimeout
	}
	bounded, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	start := time.Now()
	repeated := false
	for attempt := 1; ; attempt++ {
		l, err := s.current(bounded)
		if err == nil {
			err = do(bounded, l, repeated)
			if err == nil || isAnswer(err) {
				return s.answer(err)
			}
			if cannotTrack(err) {
				s.withoutTracking(l)
			}
		}
		f := assess(err)
		switch {
		case ctx.Err() != nil: // the caller's own
			return unavailable(ctx.Err())
		case bounded.Err() != nil:
			if errors.Is(err, context.DeadlineExceeded) {
				err = errNoAnswer // and not as if the caller's time were over
			}
			return unavailable(err)
		case !f.again || attempt == maxAttempts || time.Since(start) > lastAttempt:
			return unavailable(err)
		}
		repeated = repeated || f.executed
		pause := f.after << (attempt - 1)
		if f.executed && attempt == 1 {
			pause = 0 // a connection that went stale: the next one is as good as any
		}
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-bounded.Done():
			}
		}
	}
}

// answer wraps those of our own answers that are not the caller's.
func (s *Store) answer(err error) error {
	for _, e := range []error{errDamaged, errNotAcknowledged, errUncertain, errBusy, errClosed} {
		if errors.Is(err, e) {
			return unavailable(err)
		}
	}
	return err
}

// change runs a script that changes one key.
func (s *Store) change(ctx context.Context, c *script, key string, repeated *bool, args arguments) (result rueidis.RedisMessage, err error) {
	err = s.step(ctx, func(ctx context.Context, l *link, again bool) error {
		*repeated = again
		var r rueidis.RedisResult
		if s.o.WaitReplicas > 0 {
			var err error
			if r, err = c.runAndWait(ctx, s, l, key, args); err != nil {
				return err
			}
			if reply, ok := rueidis.IsRedisErr(r.Error()); ok {
				if _, moved := reply.IsRedirect(); moved {
					// Only a call on the shared connection is led to where
					// the key is now, and makes the next one start there.
					_ = l.Do(ctx, l.B().Exists().Key(key).Build()).Error()
				}
			}
		} else {
			r = c.run(ctx, l, key, args)
		}
		var err error
		result, err = r.ToMessage()
		return err
	})
	return result, err
}
