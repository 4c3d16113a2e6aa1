// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the store. Syntax:
//
//	store redis {
//	    address      <host[:port] | redis://... | rediss://... | unix://...> ...
//	    username     <username>
//	    password     <secret>
//	    db           <n>
//	    tls {
//	        ca          <pem file...>
//	        cert        <pem file>
//	        key         <pem file>
//	        server_name <name>
//	    }
//	    sentinel     <master> {
//	        username <username>
//	        password <secret>
//	    }
//	    cluster
//	    key_prefix   <prefix>
//	    client_cache auto|off
//	    wait         <replicas> [<timeout>]
//	}
func (s *RedisStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	o := newOptions(d)
	if err := o.directive(s.unmarshalOption); err != nil {
		return err
	}
	return o.locate(s.check())
}

func (s *RedisStore) unmarshalOption(o *options) error {
	switch o.name {
	case "address":
		return o.secrets(&s.Address)
	case "username":
		return o.text(&s.Username)
	case "password":
		return o.secret(&s.Password)
	case "db":
		word, err := o.one()
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(word, 10, 16)
		if err != nil {
			return o.d.Errf("db is %q, should be a number from 0 to %d", word, maxRedisDB)
		}
		s.DB = int(n)
		return nil
	case "tls":
		s.TLS = new(RedisTLS)
		return o.optionalBlock(s.TLS.unmarshalOption)
	case "sentinel":
		return s.unmarshalSentinel(o)
	case "cluster":
		s.Cluster = true
		return o.flag()
	case "key_prefix":
		return o.text(&s.KeyPrefix)
	case "client_cache":
		return o.choice(&s.ClientCache, clientCacheAuto, clientCacheOff)
	case "wait":
		return s.unmarshalWait(o)
	}
	return o.unrecognized()
}

func (t *RedisTLS) unmarshalOption(o *options) error {
	switch o.name {
	case "ca":
		return o.list(&t.CA)
	case "cert":
		return o.text(&t.Cert)
	case "key":
		return o.text(&t.Key)
	case "server_name":
		return o.text(&t.ServerName)
	}
	return o.unrecognized()
}

func (s *RedisStore) unmarshalSentinel(o *options) error {
	s.Sentinel = new(RedisSentinel)
	if !o.d.NextArg() {
		return o.d.Errf("%s needs the name of the master", o.path)
	}
	s.Sentinel.Master = o.d.Val()
	return o.optionalBlock(func(o *options) error {
		switch o.name {
		case "username":
			return o.text(&s.Sentinel.Username)
		case "password":
			return o.secret(&s.Sentinel.Password)
		}
		return o.unrecognized()
	})
}

func (s *RedisStore) unmarshalWait(o *options) error {
	if err := o.once(); err != nil {
		return err
	}
	args := o.d.RemainingArgs()
	switch len(args) {
	case 0:
		return o.d.Errf("%s needs a number of replicas", o.path)
	case 1, 2:
	default:
		return o.d.Errf("unexpected argument '%s' of %s", args[2], o.path)
	}
	s.Wait = new(RedisWait)
	var err error
	if s.Wait.Replicas, err = strconv.ParseInt(args[0], 10, 32); err != nil || s.Wait.Replicas <= 0 {
		return o.d.Errf("%s is %q, should be a number of replicas above zero", o.path, args[0])
	}
	if len(args) == 2 {
		return o.parseDuration(&s.Wait.Timeout, args[1])
	}
	return nil
}
