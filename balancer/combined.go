package balancer

import (
	"strconv"
	"strings"

	"stoker/exchange"
)

// appendCombined writes x's line as Apache does with LogFormat
//
//	"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\""
//
// %u is the name of the API key, %t when the request began, in UTC. Queries may
// hold secrets: neither the request line nor the referrer has one.
func appendCombined(b []byte, x *exchange.Exchange) []byte {
	r := &x.Record
	b = appendEscaped(b, r.ClientIP)
	b = append(b, " - "...)
	b = appendEscaped(b, r.Key)
	b = append(b, ' ')
	b = r.Start.UTC().AppendFormat(b, "[02/Jan/2006:15:04:05 -0700]")
	b = append(b, ` "`...)
	if x.Request.Method == "" { // it was none
		b = append(b, '-')
	} else {
		path, _, _ := strings.Cut(x.Request.Target, "?")
		b = append(appendEscaped(b, cut(x.Request.Method)), ' ')
		b = append(appendEscaped(b, cut(path)), ' ')
		b = append(b, versionName(x.Request.Proto)...)
	}
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	if r.BytesOut == 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, r.BytesOut, 10)
	}
	referrer, _, _ := strings.Cut(r.Referer, "?")
	b = append(appendEscaped(append(b, ` "`...), cut(referrer)), `" "`...)
	b = appendEscaped(b, cut(r.UserAgent))
	return append(b, "\"\n"...)
}

func versionName(proto int) string {
	switch proto {
	case 10:
		return "HTTP/1.0"
	case 11:
		return "HTTP/1.1"
	}
	return "HTTP/2.0"
}

// appendEscaped writes s as Apache does: what is not printable ASCII as \xhh or
// by its letter, quotes and backslashes behind a backslash; "-" for nothing.
func appendEscaped(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	for i := range len(s) {
		c := s[i]
		if letter := strings.IndexByte("\b\n\r\t\v\"\\", c); letter >= 0 {
			b = append(b, '\\', `bnrtv"\`[letter])
			continue
		}
		if c < ' ' || c >= 0x7f {
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}

// noteAgent keeps for the log what the fields say of who asks; they may be gone by then.
func noteAgent(x *exchange.Exchange) {
	x.Record.Referer = x.Request.Fields.Get("Referer")
	x.Record.UserAgent = x.Request.Fields.Get("User-Agent")
}
