// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package returnurl decides where a browser may be sent after login or logout,
// which is what keeps a gateway from being an open redirector (RFC 9700
// section 4.11).
package returnurl

import (
	"errors"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxBytes bounds a return URL, before and after it was rebuilt: it travels in a
// sealed cookie beside the login's other values.
const MaxBytes = 2048

// ErrRefused is the one answer to every return URL that is refused. The reason
// is not told: nobody with honest intentions needs it.
var ErrRefused = errors.New("return URL is not acceptable")

// Rules say which return URLs are acceptable. They are safe for concurrent use.
type Rules struct {
	// BasePath is that of the gateway's endpoints, which are no place to return
	// to. Empty: there are none.
	BasePath string
	// Origins are those that an absolute URL may name, as browsers write them:
	// "https://other.example.com". Default: none, only paths of the same origin.
	Origins []string
}

// Parse checks a return URL and rebuilds it from its parts, so that what is
// sent to the browser is never the text that came in. A browser reads the
// result as it was read here: an absolute path of the same origin, or a URL
// that begins with one of the configured origins. The only error is
// [ErrRefused].
func (u Rules) Parse(raw string) (string, error) {
	if raw == "" || len(raw) > MaxBytes {
		return "", ErrRefused
	}
	prefix, rest := "", raw
	if raw[0] != '/' {
		var ok bool
		if prefix, rest, ok = u.cutOrigin(raw); !ok {
			return "", ErrRefused
		}
	}
	rest, fragment, hasFragment := strings.Cut(rest, "#")
	p, query, hasQuery := strings.Cut(rest, "?")
	if p == "" && prefix != "" {
		p = "/"
	}
	if !u.acceptablePath(p, prefix == "") || strings.ContainsFunc(query, isControl) || strings.ContainsFunc(fragment, isControl) {
		return "", ErrRefused
	}
	out := prefix + escapePart(p, "/")
	if hasQuery {
		out += "?" + escapePart(query, "/?")
	}
	if hasFragment {
		out += "#" + escapePart(fragment, "/?")
	}
	if len(out) > MaxBytes {
		return "", ErrRefused
	}
	return out, nil
}

// cutOrigin splits an absolute URL after one of the configured origins. Only an
// exact beginning counts: no parser, so nothing that parsers differ about.
func (u Rules) cutOrigin(raw string) (origin, rest string, ok bool) {
	for _, o := range u.Origins {
		if rest, ok := strings.CutPrefix(raw, o); ok && (rest == "" || strings.ContainsRune("/?#", rune(rest[0]))) {
			return o, rest, true
		}
	}
	return "", "", false
}

func (u Rules) acceptablePath(p string, own bool) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	decoded, ok := unescape(p)
	if !ok || strings.Contains(decoded, `\`) || strings.ContainsFunc(decoded, isControl) || strings.Contains(p, `\`) {
		return false
	}
	// Whitespace after the slash is what some browsers, and what stands between
	// us and them, may drop: what is left then must not begin with a slash.
	if strings.HasPrefix(strings.TrimLeftFunc(decoded[1:], unicode.IsSpace), "/") {
		return false
	}
	for segment := range strings.SplitSeq(decoded, "/") {
		segment, _, _ = strings.Cut(segment, ";") // path parameters: "..;" is a dot segment to some servers
		if segment == "." || segment == ".." {
			return false
		}
	}
	if !own {
		return true
	}
	return u.BasePath == "" || !Below(path.Clean(decoded), u.BasePath)
}

// Below reports whether a clean path is base or a path below it.
func Below(p, base string) bool {
	rest, ok := strings.CutPrefix(p, base)
	return ok && (rest == "" || rest[0] == '/')
}

// isControl covers C0, DEL, C1, what does not decode as UTF-8, and the
// characters that are not seen or change how a text is read (Unicode Cf, Zl, Zp).
func isControl(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// unescape decodes percent-encoding once. ok is false for an escape that is
// none and for bytes that are not UTF-8.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, utf8.ValidString(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return "", false
		}
		b = append(b, hexValue(s[i+1])<<4|hexValue(s[i+2]))
		i += 2
	}
	return string(b), utf8.Valid(b)
}

// escapePart writes a part of a URL with nothing in it but what RFC 3986 allows
// in a path segment, the further characters, and escapes. Escapes stay as they
// are.
func escapePart(s, further string) string {
	const upper = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]),
			c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			strings.IndexByte("-._~!$&'()*+,;=:@", c) >= 0, strings.IndexByte(further, c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(upper[c>>4])
			b.WriteByte(upper[c&15])
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

// WithParameter sets a query parameter of a return URL that Parse gave, in
// place of one of the same name. Name and value are plain words.
func WithParameter(returnURL, name, value string) string {
	rest, fragment, hasFragment := strings.Cut(returnURL, "#")
	rest, query, _ := strings.Cut(rest, "?")
	name = escapePart(name, "")
	var pairs []string
	for pair := range strings.SplitSeq(query, "&") {
		if key, _, _ := strings.Cut(pair, "="); pair != "" && key != name {
			pairs = append(pairs, pair)
		}
	}
	pairs = append(pairs, name+"="+strings.ReplaceAll(escapePart(value, ""), "&", "%26"))
	rest += "?" + strings.Join(pairs, "&")
	if hasFragment {
		rest += "#" + fragment
	}
	return rest
}
