package balancer

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
)

// combinedLine is what programs that read such logs expect.
var combinedLine = regexp.MustCompile(`^(\S+) (\S+) (\S+) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\n$`)

// unescape reads what Apache escapes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch at := strings.IndexByte(`bnrtv"\`, s[i]); {
		case at >= 0:
			b.WriteByte("\b\n\r\t\v\"\\"[at])
		case s[i] == 'x':
			b.WriteByte(byte(strings.IndexByte(hexDigits, s[i+1])<<4 | strings.IndexByte(hexDigits, s[i+2])))
			i += 2
		}
	}
	return b.String()
}

func TestCombined(t *testing.T) {
	const nasty = "a\"b\\c\x1b[2J\r\n\x00é\x7f\" 200 0 \"-\" \"x"
	for name, tc := range map[string]struct {
		change func(x *exchange.Exchange)
		want   [9]string // client, -, key, time, request, status, bytes, referrer, agent
	}{
		"whole": {func(x *exchange.Exchange) {
			x.Record.Referer, x.Record.UserAgent, x.Record.Key = "https://chat.test/a?secret=1", "curl/8", "alice"
			x.Request.Proto = 20
		}, [9]string{"192.0.2.7", "-", "alice", "02/Jan/2026:15:04:05 +0000", "POST /v1/chat/completions HTTP/2.0", "200", "512", "https://chat.test/a", "curl/8"}},
		"query and nothing sent": {func(x *exchange.Exchange) {
			x.Request.Target, x.Request.Proto, x.Record.BytesOut = "/v1?key=secret", 11, 0
		}, [9]string{"192.0.2.7", "-", "-", "02/Jan/2026:15:04:05 +0000", "POST /v1 HTTP/1.1", "200", "-", "-", "-"}},
		"nasty": {func(x *exchange.Exchange) {
			x.Request.Target, x.Request.Proto, x.Record.UserAgent, x.Record.Referer = "/"+nasty, 10, nasty, nasty
		}, [9]string{"192.0.2.7", "-", "-", "02/Jan/2026:15:04:05 +0000", "POST /" + nasty + " HTTP/1.0", "200", "512", nasty, nasty}},
		"no request": {func(x *exchange.Exchange) { *x = *refused("bad_request", 400) }, [9]string{"192.0.2.7", "-", "-", "02/Jan/2026:15:04:05 +0000", "-", "400", "-", "-", "-"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := ended()
			tc.change(x)
			var out bytes.Buffer
			NewAccessLog(&out, "combined").Observe(x)
			got := combinedLine.FindStringSubmatch(out.String())
			if got == nil {
				t.Fatalf("no such line: %q", out.String())
			}
			for i, want := range tc.want {
				if have := unescape(got[i+1]); have != want {
					t.Errorf("part %d: %q, want %q", i, have, want)
				}
			}
			if _, err := time.Parse("02/Jan/2006:15:04:05 -0700", got[4]); err != nil {
				t.Error(err)
			}
			for _, c := range []byte(strings.TrimSuffix(out.String(), "\n")) {
				if c < ' ' || c >= 0x7f {
					t.Errorf("byte %#x in %q", c, out.String())
				}
			}
		})
	}
}
