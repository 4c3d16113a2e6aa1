// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
)

// place is where a host is, as far as its name tells without a resolver.
type place int

const (
	anywhere    place = iota // a name, or an address that the whole Internet knows
	thisNetwork              // an address of private use (RFC 1918, RFC 4193, RFC 6598)
	thisMachine              // loopback
	nowhere                  // link-local, where clouds keep their metadata; unspecified; an odd spelling of an address
)

// sharedAddresses are those between a carrier and its customers (RFC 6598).
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

func placeOf(host string) place {
	host = strings.TrimSuffix(host, ".")
	if loopback(host) {
		return thisMachine
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		// What ends in a number is an address to some resolvers, like 127.1.
		last := host[strings.LastIndexByte(host, '.')+1:]
		if last == "" || last[0] >= '0' && last[0] <= '9' {
			return nowhere
		}
		return anywhere
	}
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsLoopback():
		return thisMachine
	case addr.IsPrivate(), sharedAddresses.Contains(addr):
		return thisNetwork
	case addr.IsGlobalUnicast():
		return anywhere
	}
	return nowhere
}

var errPlace = errors.New("is on this machine or network, and the issuer is not")

// checkPlace keeps a metadata document, or who could change it, from sending us to
// where only this machine or its network can go: an endpoint may be there if the
// issuer, which is configured, is as near.
func checkPlace(endpoint, issuer string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	from, err := url.Parse(issuer)
	if err != nil {
		return err
	}
	p := placeOf(u.Hostname())
	if p == anywhere || u.Hostname() == from.Hostname() || p != nowhere && p <= placeOf(from.Hostname()) {
		return nil
	}
	return errPlace
}
