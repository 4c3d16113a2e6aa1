// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/caddy-bff/caddy-bff/session"
)

// DefaultPort is the port of an address that names none.
const DefaultPort = "6379"

// Address is where a server listens, with what a URL may say beside that.
type Address struct {
	// Socket is the path of a Unix socket. Then HostPort is empty.
	Socket string
	// HostPort is the host and port of a TCP address.
	HostPort string
	// TLS: the URL asks for it, with rediss.
	TLS bool
	// Username and Password are those of the URL, or empty.
	Username string
	Password session.Secret
	// DB is the database that the URL names, or -1.
	DB int
}

// ParseAddress reads one of
//
//	host
//	host:port
//	redis://[[username]:password@]host[:port][/db]
//	rediss://[[username]:password@]host[:port][/db]
//	unix:///path/of/socket[?db=n]
//
// Errors do not repeat the text, which may hold a password.
func ParseAddress(text string) (Address, error) {
	if !strings.Contains(text, "://") {
		hostPort, err := withPort(text)
		return Address{HostPort: hostPort, DB: -1}, err
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return Address{}, errors.New("is not a URL")
	case u.Opaque != "" || u.Fragment != "":
		return Address{}, errors.New("has parts that an address does not have")
	}
	a := Address{DB: -1, Username: u.User.Username()}
	if p, ok := u.User.Password(); ok {
		a.Password = session.Secret(p)
	}
	var db string
	switch u.Scheme {
	case "redis", "rediss":
		a.TLS = u.Scheme == "rediss"
		if u.RawQuery != "" {
			return Address{}, errors.New("has query parameters, which are not understood")
		}
		if a.HostPort, err = withPort(u.Host); err != nil {
			return Address{}, err
		}
		db = strings.TrimPrefix(u.Path, "/")
	case "unix":
		query := u.Query()
		db = query.Get("db")
		if query.Del("db"); len(query) != 0 {
			return Address{}, errors.New("has query parameters other than db, which are not understood")
		}
		if u.Host != "" || !path.IsAbs(u.Path) {
			return Address{}, errors.New("needs the absolute path of a socket, as in unix:///run/redis.sock")
		}
		a.Socket = u.Path
	default:
		return Address{}, errors.New("has a scheme other than redis, rediss and unix")
	}
	if db != "" {
		n, err := strconv.ParseUint(db, 10, 16)
		if err != nil {
			return Address{}, errors.New("has a database that is not a number")
		}
		a.DB = int(n)
	}
	return a, nil
}

func withPort(hostPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		host, port = hostPort, DefaultPort
		if inner, ok := strings.CutPrefix(host, "["); ok {
			if host, ok = strings.CutSuffix(inner, "]"); !ok {
				return "", errors.New("is not host:port")
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("has a port that is not a number from 1 to 65535")
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", errors.New("is not host:port")
		}
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n/?#@[]") {
		return "", errors.New("has no host")
	}
	return net.JoinHostPort(host, port), nil
}

// Dial is the address as the network wants it, which tells nothing secret.
func (a Address) Dial() string {
	if a.Socket != "" {
		return a.Socket
	}
	return a.HostPort
}

// Local reports an address that nobody on a network can listen in on: a socket
// or loopback. A name other than localhost may be anywhere.
func (a Address) Local() bool {
	if a.Socket != "" {
		return true
	}
	host, _, err := net.SplitHostPort(a.HostPort)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}
