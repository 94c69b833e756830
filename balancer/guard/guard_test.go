package guard

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		allow, deny []netip.Prefix
		address     string
		ok          bool
	}{
		{nil, prefixes("192.0.2.0/24"), "192.0.2.1", false},
		{nil, prefixes("192.0.2.0/24"), "192.0.3.1", true},
		{nil, prefixes("192.0.2.0/24"), "::ffff:192.0.2.1", false},
		{prefixes("192.0.2.0/24"), nil, "192.0.2.1", true},
		{prefixes("192.0.2.0/24"), nil, "192.0.3.1", false},
		{prefixes("192.0.2.0/24"), nil, "2001:db8::1", false},
		{prefixes("2001:db8::/32"), nil, "2001:db8::1", true},
		{prefixes("2001:db8::/32"), prefixes("2001:db8:1::/48"), "2001:db8:1::1", false},
		{prefixes("192.0.2.0/24"), prefixes("192.0.2.7/32"), "192.0.2.7", false},
		{prefixes("192.0.2.0/24"), nil, "unix", true},
	} {
		g := New(Options{Allow: tc.allow, Deny: tc.deny}, nil)
		_, r := try(g, asks(tc.address, 0))
		if (r == nil) != tc.ok || r != nil && r.Status != 403 {
			t.Errorf("%+v: %v", tc, r)
		}
	}
}

func TestCORS(t *testing.T) {
	usual := CORS{
		Origins: []string{"https://a.example", "https://*.b.example:8443"}, Methods: []string{"GET", "POST"}, Headers: []string{"*"},
		Expose: []string{"X-Request-Id"}, MaxAge: time.Minute,
	}
	star, cookies, narrow := usual, usual, usual
	star.Origins = []string{"*"}
	cookies.Credentials = true
	narrow.Headers, narrow.MaxAge, narrow.Expose = []string{"Authorization", "X-A"}, 0, nil
	for _, tc := range []struct {
		name      string
		cors      CORS
		method    string
		fields    []string
		preflight bool
		refused   bool
		want      string
	}{
		{"no page", usual, "POST", nil, false, false, "Vary: Origin"},
		{"a page", usual, "POST", []string{"Origin", "https://a.example"}, false, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Expose-Headers: X-Request-Id"},
		{"another's page", usual, "POST", []string{"Origin", "https://evil.example"}, false, false, "Vary: Origin"},
		{"a page below", usual, "GET", []string{"Origin", "https://x.y.b.example:8443"}, false, false, "Vary: Origin|Access-Control-Allow-Origin: https://x.y.b.example:8443|Access-Control-Expose-Headers: X-Request-Id"},
		{"the domain itself", usual, "GET", []string{"Origin", "https://b.example:8443"}, false, false, "Vary: Origin"},
		{"a name that ends so", usual, "GET", []string{"Origin", "https://evil-b.example:8443"}, false, false, "Vary: Origin"},
		{"a host in the star", usual, "GET", []string{"Origin", "https://evil.example/.b.example:8443"}, false, false, "Vary: Origin"},
		{"a port in the star", usual, "GET", []string{"Origin", "https://evil.example:1.b.example:8443"}, false, false, "Vary: Origin"},
		{"another scheme", usual, "GET", []string{"Origin", "http://a.example"}, false, false, "Vary: Origin"},
		{"null", usual, "GET", []string{"Origin", "null"}, false, false, "Vary: Origin"},
		{"preflight", usual, "OPTIONS", []string{"Origin", "https://a.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,x-b"}, true, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Allow-Headers: authorization,x-b|Access-Control-Allow-Methods: GET, POST|Access-Control-Max-Age: 60"},
		{"preflight of nothing special", narrow, "OPTIONS", []string{"Origin", "https://a.example", "access-control-request-method", "GET"}, true, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Allow-Headers: Authorization, X-A|Access-Control-Allow-Methods: GET, POST"},
		{"preflight with odd headers", usual, "OPTIONS", []string{"Origin", "https://a.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "a\tb"}, true, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Allow-Methods: GET, POST|Access-Control-Max-Age: 60"},
		{"another's preflight", usual, "OPTIONS", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "POST"}, false, true, "Vary: Origin"},
		{"plain OPTIONS", usual, "OPTIONS", []string{"Origin", "https://a.example"}, false, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Expose-Headers: X-Request-Id"},
		{"OPTIONS of no page", usual, "OPTIONS", []string{"Access-Control-Request-Method", "POST"}, false, false, "Vary: Origin"},
		{"all", star, "POST", []string{"Origin", "https://any.example"}, false, false, "Access-Control-Allow-Origin: *|Access-Control-Expose-Headers: X-Request-Id"},
		{"cookies", cookies, "POST", []string{"Origin", "https://a.example"}, false, false, "Vary: Origin|Access-Control-Allow-Origin: https://a.example|Access-Control-Allow-Credentials: true|Access-Control-Expose-Headers: X-Request-Id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := New(Options{CORS: tc.cors}, nil)
			x, p := asks("192.0.2.1", 0, tc.fields...), new(Pass)
			x.Request.Method = tc.method
			err := g.Enter(x, p)
			if errors.Is(err, ErrPreflight) != tc.preflight || (err == errOrigin) != tc.refused { //nolint:errorlint // it is that one
				t.Errorf("%v", err)
			}
			var got []string
			for _, f := range p.AppendFields(nil) {
				got = append(got, f.Name+": "+f.Value)
			}
			if s := strings.Join(got, "|"); s != tc.want {
				t.Errorf("got  %s\nwant %s", s, tc.want)
			}
			if !p.Owns("access-control-allow-origin") || p.Owns("X-Access-Control-") {
				t.Error("whose fields are they?")
			}
		})
	}
}

// TestPreflightsNeedNoKey, but what they are about does, and a denied network gets neither.
func TestPreflightsNeedNoKey(t *testing.T) {
	g := New(Options{
		Deny: prefixes("203.0.113.0/24"), Keys: ring(t, line(t, "a", NewKey())),
		CORS: CORS{Origins: []string{"https://a.example"}, Methods: []string{"POST"}},
	}, nil)
	enter := func(address, method string) error {
		x := asks(address, 0, "Origin", "https://a.example", "Access-Control-Request-Method", "POST")
		x.Request.Method = method
		return g.Enter(x, new(Pass))
	}
	if err := enter("192.0.2.1", "OPTIONS"); !errors.Is(err, ErrPreflight) {
		t.Error(err)
	}
	if err := enter("192.0.2.1", "POST"); err != errNoKey { //nolint:errorlint // it is that one
		t.Error(err)
	}
	if err := enter("203.0.113.1", "OPTIONS"); err != errAddress { //nolint:errorlint // it is that one
		t.Error(err)
	}
}

func TestNoGuard(t *testing.T) {
	g := New(Options{}, nil)
	x, p := asks("192.0.2.1", 0), new(Pass)
	if g != nil || g.Enter(x, p) != nil || g.Take(x, p) != nil || len(p.AppendFields(nil)) != 0 || p.Owns("Access-Control-Allow-Origin") {
		t.Error("guards something")
	}
	p.Leave(x)
}
