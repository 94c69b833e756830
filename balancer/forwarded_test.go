package balancer

import (
	"net/netip"
	"testing"
)

func TestForwarded(t *testing.T) {
	ours := networks{netip.MustParsePrefix("10.0.0.0/8")}
	for _, tc := range []struct{ field, client, chain, proto, host string }{
		{`for=192.0.2.1`, "192.0.2.1", "192.0.2.1", "", ""},
		{`For="192.0.2.1:4711";proto=https;host="a.example:8443";by=203.0.113.1`, "192.0.2.1", "192.0.2.1", "https", "a.example:8443"},
		{`for="[2001:db8::1]:4711"`, "2001:db8::1", "2001:db8::1", "", ""},
		{`for="[2001:db8::1]", for=10.0.0.1;proto=http`, "2001:db8::1", "2001:db8::1, 10.0.0.1", "", ""},
		{`for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.1`, "192.0.2.1", "192.0.2.1, 10.0.0.1", "https", ""},
		{`for=192.0.2.1, for=unknown`, "invalid IP", "", "", ""},
		{`for=192.0.2.1, for=_hidden, for=10.0.0.9`, "10.0.0.9", "10.0.0.9", "", ""},
		{`for=192.0.2.1;ext="a\"b"; host=h`, "192.0.2.1", "192.0.2.1", "", "h"},
		// No Forwarded, and so it means nothing.
		{`192.0.2.1`, "invalid IP", "", "", ""},
		{`for=192.0.2.1;`, "invalid IP", "", "", ""},
		{`for=192.0.2.1;for=192.0.2.2`, "invalid IP", "", "", ""},
		{`for="192.0.2.1`, "invalid IP", "", "", ""},
		{`for=192.0.2.1:80`, "invalid IP", "", "", ""},
		{`for=2001:db8::1`, "invalid IP", "", "", ""},
		{`for="2001:db8::1"`, "invalid IP", "", "", ""},
		{`for="[192.0.2.1]"`, "invalid IP", "", "", ""},
		{`for = 192.0.2.1`, "invalid IP", "", "", ""},
		{`for=192.0.2.1 for=192.0.2.2`, "invalid IP", "", "", ""},
		{`for=a.example, for=192.0.2.1`, "invalid IP", "", "", ""},
		{`for="192.0.2.1:123456"`, "invalid IP", "", "", ""},
		{`for="[fe80::1%eth0]"`, "invalid IP", "", "", ""},
		{``, "invalid IP", "", "", ""},
	} {
		client, chain := ours.hopBehind(tc.field)
		if client.from.String() != tc.client || chain != tc.chain || client.proto != tc.proto || client.host != tc.host {
			t.Errorf("%s: %v, chain %q, proto %q, host %q", tc.field, client.from, chain, client.proto, client.host)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for="[2001:db8::1]:4711";proto=https, for=unknown;by=_x`)
	f.Fuzz(func(t *testing.T, s string) {
		if hops, ok := parseForwarded(s); !ok && hops != nil {
			t.Errorf("%d hops of what is none", len(hops))
		}
	})
}
