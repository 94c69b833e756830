package balancer

import (
	"strings"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
)

func TestAffinityKeys(t *testing.T) {
	of := func(by, client string, fields ...http1.Field) (uint64, string) {
		x := &exchange.Exchange{Request: http1.Request{Scheme: "https", Fields: fields}}
		x.Record.ClientIP = client
		return ParseAffinity(by).of(x)
	}
	session := http1.Field{Name: "x-session", Value: "s"}
	cookie := http1.Field{Name: "Cookie", Value: "a=1; stoker=s"}
	key := http1.Field{Name: "Authorization", Value: "s"}
	s, _ := of("header:X-Session", "", session)
	for _, tc := range []struct {
		by, client string
		fields     http1.Fields
		keyed      bool
	}{
		{"", "s", http1.Fields{session, cookie, key}, false},
		{"header:X-Session", "", nil, false},
		{"header:X-Session", "", http1.Fields{session}, true},
		{"cookie:stoker", "", http1.Fields{cookie}, true},
		{"key", "", http1.Fields{key}, true},
		{"key", "", nil, false},
		{"client", "unix", nil, false},
	} {
		got, given := of(tc.by, tc.client, tc.fields...)
		if (got == s) != tc.keyed || !tc.keyed && got != 0 || given != "" {
			t.Errorf("%s, %v: %d, %q", tc.by, tc.fields, got, given)
		}
	}
	a, _ := of("client", "2001:db8::1")
	b, _ := of("client", "2001:db8::2")
	c, _ := of("client", "10.0.0.1")
	d, _ := of("client", "10.0.0.2")
	if a != b || c == d || a == 0 || c == 0 {
		t.Errorf("clients: %d %d %d %d", a, b, c, d)
	}
	first, given := of("cookie:stoker", "", http1.Field{Name: "Cookie", Value: "stokers=x; stoker="})
	value, attributes, _ := strings.Cut(given, ";")
	again, _ := of("cookie:stoker", "", http1.Field{Name: "Cookie", Value: value})
	if first != again || first == 0 || attributes != " Path=/; HttpOnly; SameSite=Lax; Secure" {
		t.Errorf("given %q: %d, and then %d", given, first, again)
	}
	if got := giveCookie(http1.Fields{{Name: "set-cookie", Value: "stoker=own"}}, given); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if got := giveCookie(nil, given); len(got) != 1 || got[0].Value != given {
		t.Errorf("%v", got)
	}
}
