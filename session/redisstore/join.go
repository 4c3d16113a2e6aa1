// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	maxMember = 64 // bytes
	// memberRest is after how long a member is forgotten that nobody joined with.
	memberRest = 30 * 24 * time.Hour
)

// checkMembers finds members that are not as Join takes them.
func checkMembers(members []string) error {
	if len(members) == 0 || len(members) > session.MaxMembers {
		return fmt.Errorf("%d members, should be 1 to %d", len(members), session.MaxMembers)
	}
	for _, m := range members {
		if len(m) == 0 || len(m) > maxMember {
			return fmt.Errorf("a member of %d bytes, should be 1 to %d", len(m), maxMember)
		}
	}
	return nil
}

// Join implements [session.Shared].
func (s *Store) Join(ctx context.Context, name string, members []string) (session.Joined, error) {
	joined := session.Joined{Place: s.keys.joined(name)}
	if err := checkMembers(members); err != nil {
		return joined, unavailable(err)
	}
	args := append([]string{strconv.Itoa(session.MaxMembers), strconv.FormatInt(memberRest.Microseconds(), 10)}, members...)
	var repeated bool // which does no harm
	reply, err := s.change(ctx, joinScript, joined.Place, &repeated, fixed(args...))
	if err != nil {
		return joined, err
	}
	if reply.IsArray() {
		there, err := reply.AsStrSlice()
		if err != nil || checkMembers(there) != nil {
			return joined, unavailable(errDamaged)
		}
		joined.Members = there
		return joined, nil
	}
	if o, err := reply.AsInt64(); err != nil || outcome(o) != done {
		return joined, unavailable(errDamaged)
	}
	joined.OK = true
	return joined, nil
}
