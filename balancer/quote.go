package balancer

import (
	"strconv"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendJSON appends s as a JSON string (RFC 8259). Bytes that are not UTF-8
// become U+FFFD; control characters, of terminals too, are escaped.
func appendJSON(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if isControl(r) {
				dst = append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			} else {
				dst = utf8.AppendRune(dst, r)
			}
			i += size
			continue
		}
		i++
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// isControl: C1, which some terminals obey, and the line separators that some
// readers of logs break lines at.
func isControl(r rune) bool { return r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 }

// appendText appends s as the value of key=value: as it is where that is
// unmistakable, else quoted with Go's escapes, in ASCII.
func appendText(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	if bare(s) {
		return append(dst, s...)
	}
	return strconv.AppendQuoteToASCII(dst, s)
}

func bare(s string) bool {
	if s == "-" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=' {
			return false
		}
	}
	return true
}
