package guard

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// CORS says which pages of other origins may use this service from a browser,
// and what of it. Where it says something, upstreams' own Access-Control fields
// are replaced.
type CORS struct {
	// Origins of pages ("https://chat.example.com"), with "*." for any one or more
	// labels before a domain, or "*" for all; empty: upstreams say it.
	Origins []string
	Methods []string
	// Headers that a page may set; "*" allows those that it asks for.
	Headers []string
	// Expose are fields of answers that a page may read.
	Expose []string
	// MaxAge is how long a browser may go by an answer to a preflight.
	MaxAge time.Duration
	// Credentials lets pages send cookies; never together with "*".
	Credentials bool
}

// cors is CORS, with its values as they are sent.
type cors struct {
	any, reflects, credentials       bool
	exact                            map[string]string
	below                            []wildcard
	methods, headers, expose, maxAge string
}

// wildcard is an origin with "*." in it: what is before the star, and after.
type wildcard struct{ before, after string }

type preflight struct {
	asked   bool
	headers string // that are asked for
}

var errOrigin = &Refusal{
	Status: http.StatusForbidden, Outcome: exchange.OutcomeForbidden, Kind: "forbidden", Code: "origin_not_allowed",
	Text: "pages of this origin may not use this service",
}

func newCORS(o CORS) *cors {
	if len(o.Origins) == 0 {
		return nil
	}
	c := &cors{
		credentials: o.Credentials, exact: map[string]string{},
		methods: strings.Join(o.Methods, ", "), headers: strings.Join(o.Headers, ", "), expose: strings.Join(o.Expose, ", "),
	}
	if o.MaxAge > 0 {
		c.maxAge = strconv.Itoa(int(o.MaxAge / time.Second))
	}
	for _, h := range o.Headers {
		c.reflects = c.reflects || h == "*"
	}
	for _, origin := range o.Origins {
		before, after, wild := strings.Cut(origin, "*")
		switch {
		case origin == "*":
			c.any = true
		case wild:
			c.below = append(c.below, wildcard{before, after})
		default:
			c.exact[origin] = origin
		}
	}
	return c
}

// enter notes where a request's page comes from, and whether it is a preflight.
func (c *cors) enter(r *http1.Request, p *Pass) {
	origin, method, headers := "", false, ""
	for _, f := range r.Fields {
		switch {
		case isName(f.Name, "Origin"):
			origin = f.Value
		case r.Method != http.MethodOptions:
		case isName(f.Name, "Access-Control-Request-Method"):
			method = true
		case isName(f.Name, "Access-Control-Request-Headers"):
			headers = f.Value
		}
	}
	if origin == "" {
		return
	}
	p.origin = c.match(origin)
	if method {
		p.preflight = preflight{asked: true}
		if isNameList(headers) {
			p.preflight.headers = headers
		}
	}
}

// match is what is told to a page of that origin, empty where it may not ask.
// The request's own text is not kept: it may be gone before the answer begins.
func (c *cors) match(origin string) string {
	if known, ok := c.exact[origin]; ok {
		return known
	}
	for _, w := range c.below {
		middle, ok := strings.CutPrefix(origin, w.before)
		if !ok {
			continue
		}
		if middle, ok = strings.CutSuffix(middle, w.after); ok && isLabels(middle) {
			return strings.Clone(origin)
		}
	}
	if c.any {
		return "*"
	}
	return ""
}

// isLabels says whether s is labels of a host's name, so that no part of an
// origin can hide in what a star stands for.
func isLabels(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '.' {
			return false
		}
	}
	return s != "" && s[0] != '.' && s[len(s)-1] != '.'
}

// isNameList says whether s is names of fields with commas between, which may be
// sent back.
func isNameList(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte("-_, ", c) < 0 {
			return false
		}
	}
	return len(s) <= 2048
}

// append adds the fields of an answer to a page, or to anybody: a cache must know
// that others may be told something else.
func (c *cors) append(fields http1.Fields, p *Pass) http1.Fields {
	if !c.any || len(c.exact)+len(c.below) > 0 {
		fields = append(fields, http1.Field{Name: "Vary", Value: "Origin"})
	}
	if p.origin == "" {
		return fields
	}
	fields = append(fields, http1.Field{Name: "Access-Control-Allow-Origin", Value: p.origin})
	if c.credentials {
		fields = append(fields, http1.Field{Name: "Access-Control-Allow-Credentials", Value: "true"})
	}
	if !p.preflight.asked {
		if c.expose != "" {
			fields = append(fields, http1.Field{Name: "Access-Control-Expose-Headers", Value: c.expose})
		}
		return fields
	}
	headers := c.headers
	if c.reflects {
		headers = p.preflight.headers
	}
	if headers != "" {
		fields = append(fields, http1.Field{Name: "Access-Control-Allow-Headers", Value: headers})
	}
	fields = append(fields, http1.Field{Name: "Access-Control-Allow-Methods", Value: c.methods})
	if c.maxAge != "" {
		fields = append(fields, http1.Field{Name: "Access-Control-Max-Age", Value: c.maxAge})
	}
	return fields
}

const corsPrefix = "Access-Control-"

func isCORSField(name string) bool {
	return len(name) > len(corsPrefix) && isName(name[:len(corsPrefix)], corsPrefix)
}
