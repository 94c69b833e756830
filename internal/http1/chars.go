package http1

import (
	"encoding/binary"
	"unsafe"
)

// What a byte may be part of.
const (
	isToken = 1 << iota // method, field name, list token (RFC 9110 5.6.2)
	isValue             // field value, reason phrase: HTAB, SP, visible, obs-text (RFC 9110 5.5)
	isHex
)

// bytesAre tells for each byte what it may be part of.
var bytesAre = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			t[c] = isToken | isValue | isHex
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			t[c] = isToken | isValue
		case c == '\t', c >= ' ' && c <= '~', c >= 0x80:
			t[c] = isValue
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= isToken
	}
	return t
}()

// all says whether every byte of p may be part of kind.
func all[T string | []byte](p T, kind uint8) bool {
	for i := range len(p) {
		if bytesAre[p[i]]&kind == 0 {
			return false
		}
	}
	return true
}

// IsToken says whether s is a token: what a method, a field name or a
// connection option must be.
func IsToken(s string) bool { return s != "" && all(s, isToken) }

// IsValue says whether s may be a field's value: no control characters but
// HTAB, and so no line breaks. Surrounding white space is allowed.
func IsValue(s string) bool { return all(s, isValue) }

// isValueBytes is all of isValue, eight bytes at a time.
func isValueBytes(p []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(p) >= 8; p = p[8:] {
		x := binary.LittleEndian.Uint64(p)
		del := x ^ 0x7f*ones
		// A byte below a space, or DEL. A tab is one, too, and is allowed.
		if (x-' '*ones)&^x&tops|(del-ones)&^del&tops != 0 && !all(p[:8], isValue) {
			return false
		}
	}
	return all(p, isValue)
}

// view is p as a string, without a copy: it changes when p does.
func view(p []byte) string {
	return unsafe.String(unsafe.SliceData(p), len(p)) //nolint:gosec // G103: the package's contract on Field
}

// trim removes optional white space, SP and HTAB, from both ends.
func trim[T string | []byte](p T) T {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// same says whether two names are equal, ASCII letters in any case. Names are
// tokens, so the folding of other alphabets must not apply: with
// strings.EqualFold the Kelvin sign equals a k.
func same(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}
