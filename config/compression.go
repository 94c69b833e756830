package config

import (
	"fmt"
	"slices"
	"strings"
)

// Compression says which answers are made smaller for clients that accept it.
type Compression struct {
	// Encodings in order of preference, of "zstd" and "gzip"; empty: answers pass
	// as they are.
	Encodings []string `toml:"encodings"`
	// Types of content, "text/*" for all of a kind.
	Types []string `toml:"types"`
	// MinSize is the least length of a body in bytes, where it is known.
	MinSize int `toml:"min_size"`
	// Level is 1, the fastest, to 9, the smallest.
	Level int `toml:"level"`
}

func defaultCompression() Compression {
	return Compression{
		Types: []string{
			"application/json", "application/problem+json", "text/plain", "text/html", "text/css",
			"text/javascript", "application/javascript", "text/xml", "application/xml", "image/svg+xml",
		},
		MinSize: 1024,
		Level:   1,
	}
}

// neverCompressed are types of which each piece is for now, or which have a
// framing of their own.
var neverCompressed = []string{"text/event-stream", "application/grpc", "multipart/"}

func (v *validator) validateCompression() {
	c := v.config.Compression
	if len(c.Encodings) == 0 {
		for _, key := range []string{"types", "min_size", "level"} {
			if at := "compression." + key; v.written(at) {
				v.report(at, `means nothing without compression.encodings: write encodings = ["zstd", "gzip"]`)
			}
		}
		return
	}
	for i, name := range c.Encodings {
		key := indexPath("compression.encodings", i)
		v.oneOf(key, name, "zstd", "gzip")
		if slices.Contains(c.Encodings[:i], name) {
			v.report(key, fmt.Sprintf("%q is there already: name each once", name))
		}
	}
	if len(c.Types) == 0 {
		v.report("compression.types", `must name at least one, such as "application/json"`)
	}
	for i, t := range c.Types {
		key := indexPath("compression.types", i)
		kind, form, whole := strings.Cut(t, "/")
		switch {
		case !whole || !isMediaToken(kind) || form != "*" && !isMediaToken(form):
			v.report(key, fmt.Sprintf(`%s is not a type of content: write it without parameters, such as "application/json", or "text/*"`, quoteTOML(shorten(t))))
		case slices.ContainsFunc(neverCompressed, func(n string) bool { return strings.HasPrefix(t, n) }):
			v.report(key, fmt.Sprintf("%s is never compressed: its pieces are read one by one as they come; leave it out", quoteTOML(t)))
		}
	}
	v.number("compression.min_size", c.MinSize, 0, 1<<30)
	v.number("compression.level", c.Level, 1, 9)
}

// isMediaToken says whether s can be one half of a type, in lower case.
func isMediaToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("+-._", c) < 0 {
			return false
		}
	}
	return s != ""
}
