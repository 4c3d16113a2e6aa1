// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"encoding/base64"
	"strings"

	"github.com/caddy-bff/caddy-bff/session"
)

// keyspace names what the store keeps. Braces are a cluster's hash tag: what is
// in them decides which node has the key.
//
//	<prefix>s:{<session key>}  a record
//	<prefix>i:{<index key>}    an index: a sorted set of session keys
//	<prefix>n:{<name>}         what instances joined: a sorted set
type keyspace string

const sessionKeyLength = 43 // unpadded base64url of 32 bytes

func (p keyspace) record(k session.Key) string { return string(p) + "s:{" + k.String() + "}" }

func (p keyspace) index(k session.IndexKey) string {
	return string(p) + "i:{" + base64.RawURLEncoding.EncodeToString(k[:]) + "}"
}

func (p keyspace) joined(name string) string { return string(p) + "n:{" + name + "}" }

// recordKey reads what record made. It reports false for any other name.
func (p keyspace) recordKey(name string) (session.Key, bool) {
	rest, ok := strings.CutPrefix(name, string(p)+"s:{")
	if !ok || len(rest) != sessionKeyLength+1 || rest[sessionKeyLength] != '}' {
		return session.Key{}, false
	}
	k, err := session.ParseKey(rest[:sessionKeyLength])
	return k, err == nil
}
