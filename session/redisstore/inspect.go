// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"time"
)

// lookTimeout bounds what is looked up for warnings.
const lookTimeout = 2 * time.Second

// warnPlaintext warns of addresses at which others may listen in. E111.
func (s *Store) warnPlaintext() {
	if s.o.TLS != nil {
		return
	}
	for _, a := range s.o.Addresses {
		if !a.Local() {
			s.log.Warn("the connection to the session store is in the clear; use TLS (rediss://) unless nobody else can get at this network",
				"address", a.Dial())
			return
		}
	}
}

// inspect warns of a server that drops sessions when its memory is full. F209.
// One that does not let itself be looked at is not worth a word.
func (s *Store) inspect(l *link) {
	defer s.running.Done()
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	for address, node := range l.Nodes() {
		settings, err := node.Do(ctx, node.B().ConfigGet().Parameter("maxmemory-policy").Build()).AsStrMap()
		if err != nil {
			continue
		}
		if policy := settings["maxmemory-policy"]; policy != "" && policy != "noeviction" {
			s.log.Warn("the server of the session store drops sessions when its memory is full; set maxmemory-policy to noeviction",
				"address", address, "maxmemory_policy", policy)
			return
		}
	}
}
