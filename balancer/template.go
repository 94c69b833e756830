package balancer

import (
	"maps"
	"slices"
	"strings"

	"stoker/internal/http1"
)

// template is a text with placeholders.
type template struct{ parts []part }

// part is text, or a placeholder in its braces.
type part struct {
	text string
	open bool
}

// newTemplate reads a validated text; nil for an empty one.
func newTemplate(s string) *template {
	if s == "" {
		return nil
	}
	t := &template{}
	for s != "" {
		begin := strings.IndexByte(s, '{')
		end := strings.IndexByte(s, '}')
		if begin < 0 || end < begin {
			break
		}
		if begin > 0 {
			t.parts = append(t.parts, part{text: s[:begin]})
		}
		t.parts = append(t.parts, part{text: s[begin : end+1], open: true})
		s = s[end+1:]
	}
	if s != "" {
		t.parts = append(t.parts, part{text: s})
	}
	return t
}

// fill appends the text, each placeholder replaced by what value says.
func (t *template) fill(dst []byte, value func(dst []byte, placeholder string) []byte) []byte {
	for _, p := range t.parts {
		if p.open {
			dst = value(dst, p.text)
		} else {
			dst = append(dst, p.text...)
		}
	}
	return dst
}

// segment is what stands in path where the pattern has the placeholder.
func (p *pathPattern) segment(path, placeholder string) string {
	found := ""
	p.walk(path, func(s segment, text string) {
		if s.open && s.text == placeholder {
			found = text
		}
	})
	return found
}

// rewritten is target with what the pattern has matched of its path replaced.
func (r *route) rewritten(target string) string {
	if target == "*" {
		return target
	}
	path, query, asked := strings.Cut(target, "?")
	length := max(r.match.path.length(path), 0)
	out := r.rewrite.fill(make([]byte, 0, len(target)+64), func(dst []byte, placeholder string) []byte {
		return append(dst, r.match.path.segment(path, placeholder)...)
	})
	rest := path[length:]
	if strings.HasPrefix(rest, "/") && len(out) == 1 { // "/" and what follows
		out = out[:0]
	}
	out = append(out, rest...)
	if asked {
		out = append(append(out, '?'), query...)
	}
	return string(out)
}

// location is where a request is sent to.
func (r *route) location(to *template, q *http1.Request) string {
	path, query, asked := strings.Cut(q.Target, "?")
	if q.Target == "*" {
		path = "/"
	}
	out := to.fill(nil, func(dst []byte, placeholder string) []byte {
		switch placeholder {
		case "{scheme}":
			return append(dst, q.Scheme...)
		case "{host}":
			return append(dst, hostOnly(q.Authority)...)
		case "{path}":
			return appendURL(dst, path)
		case "{query}":
			return appendURL(dst, query)
		case "{uri}":
			dst = appendURL(dst, path)
			if asked {
				dst = appendURL(append(dst, '?'), query)
			}
			return dst
		}
		return appendURL(dst, r.match.path.segment(path, placeholder))
	})
	// Two slashes would begin a host: "//evil.example/" asked of us must not
	// become a way to there.
	at := 0
	for len(out) > at+1 && out[0] == '/' && out[at+1] == '/' {
		at++
	}
	return string(out[at:])
}

// appendURL appends s, with what no URL may have escaped. A backslash is a slash
// to browsers.
func appendURL(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"<>\^`+"`{|}", c) >= 0 {
			const digits = "0123456789ABCDEF"
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
