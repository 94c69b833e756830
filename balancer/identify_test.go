package balancer

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"stoker/internal/http1"
)

func TestIdentify(t *testing.T) {
	b := newBalancer(t, Options{
		Pools:          []Pool{&fakePool{}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	})
	const untrusted, trusted, unix = "192.0.2.7:1", "10.0.0.1:1", ""
	for _, tc := range []struct {
		name, peer, sent string // fields as "Name: value", one a line
		client, want     string // without X-Request-Id
	}{
		{"nothing said", untrusted, "", "192.0.2.7", "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http"},
		{
			"an untrusted peer's word counts nothing", untrusted,
			"A: b\nX-Forwarded-For: 1.1.1.1\nx-forwarded-proto: https\nX-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Forwarded-Prefix: /x\nForwarded: for=1.1.1.1\nx-real-ip: 1.1.1.1",
			"192.0.2.7", "A: b\nX-Forwarded-For: 192.0.2.7\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http",
		},
		{
			"a trusted one's does", trusted,
			"A: b\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: c.test\nForwarded: for=1.1.1.1\nX-Real-IP: 1.1.1.1",
			"1.1.1.1", "A: b\nForwarded: for=1.1.1.1\nX-Forwarded-For: 1.1.1.1, 10.0.0.1\nX-Forwarded-Host: c.test\nX-Forwarded-Proto: https\nX-Real-IP: 1.1.1.1",
		},
		{"the right-most one that is not ours", trusted, "X-Forwarded-For: 6.6.6.6, 1.1.1.1\nX-Forwarded-For: 10.2.0.1,fd00::1", "1.1.1.1", "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.2.0.1,fd00::1, 10.0.0.1\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http"},
		{"all ours", trusted, "X-Forwarded-For: 10.9.9.9, 10.2.0.1", "10.9.9.9", ""},
		{"no address in between", trusted, "X-Forwarded-For: 1.1.1.1, unknown, 10.2.0.1", "10.2.0.1", ""},
		{"ports and brackets", trusted, "X-Forwarded-For: 1.1.1.1:5, [fd00::1]:80, [fd00::2]", "1.1.1.1", ""},
		{"mapped address", trusted, "X-Forwarded-For: ::ffff:1.1.1.1", "1.1.1.1", ""},
		{"trusted and silent", trusted, "", "10.0.0.1", "X-Forwarded-For: 10.0.0.1\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http"},
		{"unix socket", unix, "", "unix", "X-Forwarded-Host: a.test\nX-Forwarded-Proto: http"},
		{"unix socket behind a proxy", unix, "X-Forwarded-For: 1.1.1.1", "1.1.1.1", "X-Forwarded-For: 1.1.1.1\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http"},
		{
			"underscores for hyphens, from anybody", trusted,
			"A_b: kept\nX_Forwarded_For: 1.1.1.1\nx-forwarded_proto: https\nX_Real_IP: 1.1.1.1\nContent_Length: 5\nTransfer_Encoding: chunked\nX_Request_Id: y\nX_Forwarded: kept",
			"10.0.0.1", "A_b: kept\nX-Forwarded-For: 10.0.0.1\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http\nX_Forwarded: kept",
		},
		{
			"what concerns one connection", untrusted,
			"Connection: close, X-Mine, X-Forwarded-For\nX-Mine: 1\nTE: trailers\nUpgrade: websocket\nExpect: 100-continue\nProxy: http://evil\nKeep-Alive: 5\nProxy-Authorization: x\nAuthorization: kept",
			"192.0.2.7", "Authorization: kept\nX-Forwarded-For: 192.0.2.7\nX-Forwarded-Host: a.test\nX-Forwarded-Proto: http",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newExchange(&fakeSink{})
			x.Request.Authority = "a.test"
			x.Client = netip.AddrPort{}
			if tc.peer != "" {
				x.Client = netip.MustParseAddrPort(tc.peer)
			}
			for line := range strings.SplitSeq(tc.sent, "\n") {
				if name, value, ok := strings.Cut(line, ": "); ok {
					x.Request.Fields = append(x.Request.Fields, http1.Field{Name: name, Value: value})
				}
			}
			b.identify(x)
			if x.Record.ClientIP != tc.client {
				t.Errorf("client %q, want %q", x.Record.ClientIP, tc.client)
			}
			var got []string
			for _, f := range x.Request.Fields {
				if f.Name != requestIDField {
					got = append(got, f.Name+": "+f.Value)
				}
			}
			slices.Sort(got)
			if text := strings.Join(got, "\n"); tc.want != "" && text != tc.want {
				t.Errorf("got\n%s\nwant\n%s", text, tc.want)
			}
		})
	}
}

func TestRequestID(t *testing.T) {
	b := newBalancer(t, Options{Pools: []Pool{&fakePool{}}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for _, tc := range []struct {
		peer, sent string
		kept       bool
	}{
		{"192.0.2.7:1", "req-1", false},
		{"10.0.0.1:1", "req-1:a/b=", true},
		{"10.0.0.1:1", strings.Repeat("x", maxRequestID), true},
		{"10.0.0.1:1", strings.Repeat("x", maxRequestID+1), false},
		{"10.0.0.1:1", "a b", false},
		{"10.0.0.1:1", "a\x1b[2J", false},
		{"10.0.0.1:1", `a"b`, false},
		{"10.0.0.1:1", "", false},
	} {
		t.Run(fmt.Sprintf("%.20q", tc.sent), func(t *testing.T) {
			x := newExchange(&fakeSink{})
			x.Client = netip.MustParseAddrPort(tc.peer)
			x.Request.Fields = http1.Fields{{Name: "x-request-id", Value: tc.sent}}
			b.identify(x)
			var passed []string
			for _, f := range x.Request.Fields {
				if strings.EqualFold(f.Name, requestIDField) {
					passed = append(passed, f.Value)
				}
			}
			if len(passed) != 1 || passed[0] != x.Record.ID {
				t.Errorf("engine gets %q, log %q", passed, x.Record.ID)
			}
			if tc.kept != (x.Record.ID == tc.sent) {
				t.Errorf("id %q", x.Record.ID)
			}
			if !tc.kept && (!uuid.MatchString(x.Record.ID) || seen[x.Record.ID]) {
				t.Errorf("id %q is no new UUID of version 7", x.Record.ID)
			}
			seen[x.Record.ID] = true
		})
	}
}

func FuzzClientBehind(f *testing.F) {
	f.Add("1.1.1.1, 10.0.0.1")
	f.Add("[::1]:80,,unknown")
	b := newBalancer(f, Options{Pools: []Pool{&fakePool{}}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	f.Fuzz(func(t *testing.T, forwarded string) {
		got := b.clientBehind("10.0.0.1", forwarded)
		if _, err := netip.ParseAddr(got); err != nil {
			t.Errorf("%q is no address", got)
		}
	})
}
