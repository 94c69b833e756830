package http1

import (
	"bytes"
	"iter"
	"slices"
	"strings"
)

// Limits of what is parsed. Both are above what engines and SDKs send, by an
// order of magnitude, and low enough that a connection costs little.
const (
	// MaxHead is the largest head, start line and final empty line included,
	// in bytes. Cookies and tokens of single sign-on reach 16 KiB.
	MaxHead = 64 << 10
	// MaxFields is the largest number of fields of one head or trailer
	// section: lookups are linear.
	MaxFields = 128
)

// Get returns the value of the first field called name, in any case; "" when
// there is none.
func (f Fields) Get(name string) string {
	for i := range f {
		if same(f[i].Name, name) {
			return f[i].Value
		}
	}
	return ""
}

// Has says whether there is a field called name.
func (f Fields) Has(name string) bool {
	return slices.ContainsFunc(f, func(f Field) bool { return same(f.Name, name) })
}

// Tokens iterates over the elements of a list field (RFC 9110 5.6.1) in all
// fields called name, without white space; empty elements are skipped. It is
// for lists of tokens: commas within quotes separate too.
func (f Fields) Tokens(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range f {
			if !same(f[i].Name, name) {
				continue
			}
			for token := range tokens(f[i].Value) {
				if !yield(token) {
					return
				}
			}
		}
	}
}

// HasToken says whether a list field called name has the element token, in any case.
func (f Fields) HasToken(name, token string) bool {
	for t := range f.Tokens(name) {
		if same(t, token) {
			return true
		}
	}
	return false
}

// tokens iterates over the non-empty elements of one comma-separated value.
func tokens(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for value != "" {
			var t string
			t, value, _ = strings.Cut(value, ",")
			if t = trim(t); t != "" && !yield(t) {
				return
			}
		}
	}
}

// webSocket is what Upgrade calls it.
const webSocket = "websocket"

// names says whether the list has an element, in any case.
func names(list, element string) bool {
	for t := range tokens(list) {
		if same(t, element) {
			return true
		}
	}
	return false
}

// Without removes, in place, every field called name.
func (f Fields) Without(name string) Fields {
	return slices.DeleteFunc(f, func(f Field) bool { return same(f.Name, name) })
}

// Clone copies the fields and what they view, for who keeps them beyond the exchange.
func (f Fields) Clone() Fields {
	c := make(Fields, len(f))
	for i := range f {
		c[i] = Field{strings.Clone(f[i].Name), strings.Clone(f[i].Value)}
	}
	return c
}

// StripHopByHop removes, in place, what concerns one connection only and must
// not be passed on (RFC 9110 7.6.1): Connection and every field it nominates,
// Keep-Alive, Proxy-Connection, TE, Transfer-Encoding and Upgrade; also
// Proxy-Authenticate, Proxy-Authorization and Proxy-Authentication-Info, which
// speak to a proxy (RFC 9110 11.7) and not to a gateway's engines, and
// Content-Length, since framing is written anew on each side.
//
// Trailer stays: it announces trailer fields, and those are passed on. HTTP2-Settings
// goes with the Connection that must nominate it.
//
// A sender may nominate any field, X-Forwarded-For too: add such fields after.
func StripHopByHop(f Fields) Fields {
	var few [8]string
	nominated := few[:0]
	for i := range f {
		if !same(f[i].Name, "Connection") {
			continue
		}
		for token := range tokens(f[i].Value) {
			if !same(token, "close") && !same(token, "keep-alive") {
				nominated = append(nominated, token)
			}
		}
	}
	return slices.DeleteFunc(f, func(f Field) bool {
		return hopByHop(f.Name) || slices.ContainsFunc(nominated, func(n string) bool { return same(n, f.Name) })
	})
}

// hopByHop says whether a field concerns one connection whoever nominates it.
// It is asked of every field of every message: the length rules most out.
func hopByHop(name string) bool {
	switch len(name) {
	case len("TE"):
		return same(name, "TE")
	case len("Upgrade"):
		return same(name, "Upgrade")
	case len("Connection"): // and of Keep-Alive
		return same(name, "Connection") || same(name, "Keep-Alive")
	case len("Content-Length"):
		return same(name, "Content-Length")
	case len("Proxy-Connection"):
		return same(name, "Proxy-Connection")
	case len("Transfer-Encoding"):
		return same(name, "Transfer-Encoding")
	case len("Proxy-Authenticate"):
		return same(name, "Proxy-Authenticate")
	case len("Proxy-Authorization"):
		return same(name, "Proxy-Authorization")
	case len("Proxy-Authentication-Info"):
		return same(name, "Proxy-Authentication-Info")
	}
	return false
}

// notInTrailers are fields that a receiver acts upon before the body (RFC 9110
// 6.5.1): a trailer that is merged into the head must not be able to set them.
var notInTrailers = []string{
	"Authorization", "Cache-Control", "Content-Encoding", "Content-Range", "Content-Type", "Cookie", "Expect",
	"Host", "Max-Forwards", "Pragma", "Range", "Set-Cookie", "Trailer", "WWW-Authenticate",
}

// stripTrailers removes, in place, what may not be a trailer.
func stripTrailers(f Fields) Fields {
	return slices.DeleteFunc(StripHopByHop(f), func(f Field) bool {
		return slices.ContainsFunc(notInTrailers, func(n string) bool { return same(n, f.Name) })
	})
}

// parseFields appends the fields of section to f. The section consists of
// whole lines, each ended by CRLF, without the empty line after them, and of
// no more than limit.
func parseFields(f Fields, section []byte, limit int) (Fields, error) {
	for count := 0; len(section) > 0; count++ {
		if count == limit {
			return f, ErrTooManyFields
		}
		name := 0
		for name < len(section) && bytesAre[section[name]]&isToken != 0 {
			name++
		}
		end := name + bytes.IndexByte(section[name:], '\n') // below name: there is none
		if end <= name || section[end-1] != '\r' {
			return f, errBareLF
		}
		if name == 0 || section[name] != ':' {
			return f, misfit(section[:end-1])
		}
		value := trim(section[name+1 : end-1])
		if !isValueBytes(value) {
			return f, errFieldValue
		}
		f = append(f, Field{view(section[:name]), view(value)})
		section = section[end+1:]
	}
	return f, nil
}

// misfit says what is wrong with a line, without its CRLF, that does not begin with
// a token and a colon.
func misfit(line []byte) error {
	switch {
	case len(line) > 0 && (line[0] == ' ' || line[0] == '\t'):
		return errFold
	case bytes.IndexByte(line, ':') < 0:
		return errNoColon
	}
	return errFieldName // a space before the colon is no token either
}

// appendFields writes fields as lines.
func appendFields(dst []byte, f Fields) []byte {
	for i := range f {
		dst = AppendField(dst, f[i].Name, f[i].Value)
	}
	return dst
}

// AppendField writes one field as a line.
func AppendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// headEnd returns the length of the head that buf starts with, its empty line
// included; 0 when it is not complete. seen is how much of buf an earlier call
// looked at in vain, so that a head that arrives byte by byte costs no more.
func headEnd(buf []byte, seen int) (int, error) {
	limit := min(len(buf), MaxHead)
	for i := min(seen, limit); i < limit; i++ {
		lf := bytes.IndexByte(buf[i:limit], '\n')
		if lf < 0 {
			break
		}
		i += lf
		if i == 0 || buf[i-1] != '\r' {
			return 0, errBareLF
		}
		if i == 1 || buf[i-2] == '\n' {
			return i + 1, nil
		}
	}
	if len(buf) >= MaxHead {
		return 0, ErrHeadTooLarge
	}
	return 0, nil
}
