// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package returnurl

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
)

var testRules = Rules{BasePath: "/bff", Origins: []string{"https://help.example.com", "https://example.com:8443"}}

func TestReturnURLAccepted(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/":                                   "/",
		"/a":                                  "/a",
		"/a/b.html?x=1&y=2#frag":              "/a/b.html?x=1&y=2#frag",
		"/a?next=//evil":                      "/a?next=//evil",
		"/a?u=https://evil.com/":              "/a?u=https://evil.com/",
		"/a?q=%0d%0aSet-Cookie:x":             "/a?q=%0d%0aSet-Cookie:x",
		"/a b":                                "/a%20b",
		"/ü/?ä=ö#ß":                           "/%C3%BC/?%C3%A4=%C3%B6#%C3%9F",
		"/%C3%BC":                             "/%C3%BC",
		"/a//b":                               "/a//b",
		"/a%2Fb":                              "/a%2Fb",
		"/@evil.com":                          "/@evil.com",
		"/:80":                                "/:80",
		"/javascript:alert(1)":                "/javascript:alert(1)",
		"/a\"<>b":                             "/a%22%3C%3Eb",
		"/a?\"<script>":                       "/a?%22%3Cscript%3E",
		"/bffx":                               "/bffx",
		"/BFF/logout":                         "/BFF/logout",
		"/a#//evil":                           "/a#//evil",
		"/...":                                "/...",
		"/a?b?c":                              "/a?b?c",
		"/?%":                                 "/?%25",
		"/#!/route/1":                         "/#!/route/1",
		"https://help.example.com":            "https://help.example.com/",
		"https://help.example.com/x?y#z":      "https://help.example.com/x?y#z",
		"https://help.example.com?y":          "https://help.example.com/?y",
		"https://example.com:8443/bff/logout": "https://example.com:8443/bff/logout",
	} {
		got, err := testRules.Parse(in)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// refusedReturnURLs is the open redirect corpus: shapes that some browser, or
// some parser between us and it, took for another site. C2, A101 to A104, A204,
// A303, A416, CS-11.
var refusedReturnURLs = func() []string {
	out := []string{
		"", " ", "a", "?x", "#x", ".", "..", "*", "evil.com", "www.evil.com", ".evil.com",
		"/\\/evil.com", "\\/evil.com", "\\\\evil.com", "\\evil.com", "/a\\b", "/a/%5cb", "/a%5Cb",
		"https:evil.com", "https:/evil.com", "http:evil.com", "https:///evil.com", "https://", "http://", "//", "///", "////",
		"https:\\\\evil.com", "http:/\\evil.com", "http:\\/evil.com", "ht\ntps://evil.com", "\thttps://evil.com", " https://evil.com",
		"javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:x", "about:blank", "ftp://evil.com", "mailto:a@b",
		"https://evil.com", "https://evil.com/", "https://evil.com/https://help.example.com", "https://evil.com?https://help.example.com", "https://evil.com#https://help.example.com/",
		"https://help.example.com.evil.com", "https://help.example.comevil", "https://help.example.com@evil.com", "https://help.example.com:443@evil.com", "https://help.example.com:443", "https://help.example.com:8443/",
		"https://help.example.com\\@evil.com", "https://help.example.com\\.evil.com", "https://help.example.com%2eevil.com", "https://help.example.com%00.evil.com", "https://help.example.com\t.evil.com",
		"https://evilhelp.example.com", "https://x.help.example.com", "https://user@help.example.com/", "https://user:pw@help.example.com/", "http://help.example.com/", "HTTPS://help.example.com/", "https://HELP.example.com/", "//help.example.com/",
		"https://help.example.com./", "https://[::1]/", "https://127.0.0.1/", "https://2130706433/", "https://example.com/", "https://example.com:84430/", "https://example.com:8443.evil/",
		"https://help。example.com/", "https://help．example.com/", "https://hеlp.example.com/",
		"/.", "/..", "/./", "/../", "/a/..", "/a/../b", "/a/./b", "/.;/a", "/..;/a", "/a/..;x=1/b",
		"/%2e", "/%2e%2e", "/.%2e/", "/%2E%2E/evil.com", "/a/%2e%2e/b", "/%2e%2e%2fevil.com", "/a%2f..%2fb", "/.evil.com/..//", "/a/..%2f..%2f/evil.com",
		"/bff", "/bff/", "/bff/login", "/bff/logout", "/bff/logout?sid=1", "/bff/callback?code=x&state=y", "/bff#x", "/bff?x", "/%62ff/logout", "/bff%2flogout", "//bff/login", "/a/../bff/login", "/bff//login",
		"/a\x00b", "/a%00b", "/\u0000", "/a\u2028b", "/a\u200eb", "/\u202egro.live", "/a%E2%80%AEb", "/a\u0085b", "/\ufeffa", "/%EF%BB%BFa",
		"/%", "/%g1", "/%1", "/a%zz", "/a%u002f", "/%c0%af", "/%c0%ae%c0%ae", "/%ff", "/\xff", "/a?\xff", "/a#\xff", "/a?\x00", "/a#\x07",
		"/\u3000//evil.com", "/\u00a0/evil.com", "/%C2%A0/evil.com", "/%20//evil.com", "/%20/evil.com", "/ /evil.com", "/ //evil.com", "/%09/evil.com", "/%0b/evil.com", "/%0c/evil.com",
		"/" + strings.Repeat("a", 8192), "/?" + strings.Repeat("ü", 2000), strings.Repeat("/", 8192),
	}
	// After a slash, and in place of it: whatever has been read as a slash.
	slashes := []string{"/", "\\", "%2f", "%2F", "%5c", "%5C", "/\t", "\t/", "/\r", "/\n", "\r/", "\n/", "%09/", "%0a/", "%0d/", "%0a%0d/", "%2f/", "/%2f", "%5c/", "/%5c", "\\/", "/\\", "\x01/", "\x1f/", "\x7f/"}
	for _, s := range slashes {
		for _, host := range []string{"evil.com", "evil.com/", "evil.com/%2f..", "@evil.com", "evil.com:80", "[::1]", "help.example.com", "2130706433", "evil.com?a", "evil.com#a"} {
			out = append(out, "/"+s+host)
		}
	}
	// Controls anywhere.
	for _, c := range []string{"\r", "\n", "\r\n", "\t", "\x00", "\x0b", "\x1b", "\x7f"} {
		for _, f := range []string{"%s/a", "/%sa", "/a%s", "/a%s/b", "/a?b%s", "/a#b%s"} {
			out = append(out, strings.Replace(f, "%s", c, 1))
		}
	}
	for _, c := range []string{"%0d", "%0a", "%0d%0a", "%09", "%00", "%0b", "%1b", "%7f", "%0D%0ASet-Cookie:a=b"} {
		for _, f := range []string{"/@a", "/a@", "/a@/b", "/a@?b", "/a@#b"} {
			out = append(out, strings.Replace(f, "@", c, 1))
		}
	}
	return out
}()

func TestOpenRedirectCorpus(t *testing.T) {
	t.Parallel()
	if len(refusedReturnURLs) < 300 {
		t.Fatalf("the corpus has %d strings", len(refusedReturnURLs))
	}
	for _, s := range refusedReturnURLs {
		if got, err := testRules.Parse(s); err == nil {
			t.Errorf("Parse(%q) = %q, want an error", s, got)
		}
	}
}

// whatwgOwn reads a URL as the WHATWG URL standard has browsers do, as far as is
// needed to see whether they stay: tabs and newlines are dropped, outer controls
// and spaces trimmed, "\" is "/", and two slashes begin an authority.
func whatwgOwn(s string) bool {
	s = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(s)
	s = strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
	p, _, _ := strings.Cut(s, "#")
	p, _, _ = strings.Cut(p, "?")
	p = strings.ReplaceAll(p, "\\", "/")
	return strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "//")
}

var plainURL = regexp.MustCompile(`^[A-Za-z0-9._~!$&'()*+,;=:@/?#%-]+$`)

func FuzzReturnURL(f *testing.F) {
	for _, s := range refusedReturnURLs {
		f.Add(s)
	}
	for _, s := range []string{"/a?b#c", "https://help.example.com/x", "/%C3%BC", "/a b;c?d[e]=f|g#h\"i"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := testRules.Parse(s)
		if err != nil {
			return
		}
		if !plainURL.MatchString(got) || len(got) > MaxBytes {
			t.Fatalf("Parse(%q) = %q", s, got)
		}
		if again, err := testRules.Parse(got); err != nil || again != got {
			t.Fatalf("Parse(%q) = %q, which gives %q, %v", s, got, again, err)
		}
		own := got
		for _, o := range testRules.Origins {
			if rest, ok := strings.CutPrefix(got, o); ok {
				own = rest
			}
		}
		if !whatwgOwn(own) {
			t.Fatalf("Parse(%q) = %q leads away", s, got)
		}
		u, err := url.Parse(own)
		if err != nil || u.Host != "" || u.Scheme != "" || u.User != nil {
			t.Fatalf("Parse(%q) = %q: %v, %v", s, got, u, err)
		}
		if own == got && Below(path.Clean(u.Path), "/bff") {
			t.Fatalf("Parse(%q) = %q is an endpoint", s, got)
		}
	})
}

func TestWithParameter(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/a":       "/a?bff_error=login_required",
		"/a?b=c":   "/a?b=c&bff_error=login_required",
		"/a?b=c#d": "/a?b=c&bff_error=login_required#d",
		"/#/a?b":   "/?bff_error=login_required#/a?b",
		"/a?":      "/a?bff_error=login_required",
		"/a?bff_error=x&b=c&bff_error=y&bff_errors=z": "/a?b=c&bff_errors=z&bff_error=login_required",
		"https://x": "https://x?bff_error=login_required",
	} {
		if got := WithParameter(in, "bff_error", "login_required"); got != want {
			t.Errorf("WithParameter(%q) = %q, want %q", in, got, want)
		}
	}
}
