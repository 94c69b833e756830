package balancer

import (
	"html"
	"net/http"
	"strconv"
	"strings"

	"stoker/exchange"
	"stoker/internal/http1"
)

// Pages say who gets our own errors as a page to read.
type Pages struct {
	// HTML: who prefers that to JSON.
	HTML bool
	// JSONPaths are below which everybody gets JSON.
	JSONPaths []string
}

// pages are Pages in force; the zero value means JSON for all.
type pages struct {
	html bool
	json []pathPattern
}

func newPages(p *Pages) pages {
	made := pages{html: p.HTML}
	for _, path := range p.JSONPaths {
		made.json = append(made.json, newPathPattern(path, false))
	}
	return made
}

// possible says whether what the client asked for is something for which there are pages.
func (p *pages) possible(target string) bool {
	if !p.html {
		return false
	}
	path, _, _ := strings.Cut(target, "?")
	for i := range p.json {
		if p.json[i].matches(path) {
			return false
		}
	}
	return true
}

// prefersHTML says whether a client would rather have HTML than JSON. Programs say
// nothing, or */*; browsers name it.
func prefersHTML(fields http1.Fields) bool {
	page, object := liking{}, liking{}
	for element := range fields.Tokens("Accept") {
		name, q := http1.Weight(element)
		page.hear(name, q, "text/html", "text/*")
		object.hear(name, q, "application/json", "application/*")
	}
	return page.q > object.q
}

// liking is how much a client likes a type of content, by the most specific of
// what it has said (RFC 9110 12.5.1).
type liking struct{ q, specific int }

func (l *liking) hear(name string, q int, exact, family string) {
	specific := 0
	switch {
	case strings.EqualFold(name, exact):
		specific = 3
	case strings.EqualFold(name, family):
		specific = 2
	case name == "*/*":
		specific = 1
	}
	if specific > l.specific {
		*l = liking{q, specific}
	}
}

// errorPage is an answer of our own for people: nothing in it comes from
// elsewhere, nor is anything loaded.
func errorPage(x *exchange.Exchange, v *verdict) []byte {
	title := strconv.Itoa(v.status)
	if text := http.StatusText(v.status); text != "" {
		title += " " + text
	}
	var b strings.Builder
	b.WriteString(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>`)
	b.WriteString(title)
	b.WriteString(`</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }
small { opacity: .7 }
</style>
</head>
<body>
<h1>`)
	b.WriteString(title)
	b.WriteString("</h1>\n<p>")
	b.WriteString(html.EscapeString(v.message))
	b.WriteString("</p>\n<p><small>")
	b.WriteString(html.EscapeString(v.code))
	b.WriteString(" · request <code>")
	b.WriteString(html.EscapeString(x.Record.ID))
	b.WriteString("</code></small></p>\n</body>\n</html>\n")
	return []byte(b.String())
}

// errorReply is the answer in the form that suits the client.
func (p *pages) errorReply(x *exchange.Exchange, target string, v *verdict) reply {
	r := reply{status: v.status, body: errorBody(*v), fields: http1.Fields{
		{Name: "Content-Type", Value: "application/json"},
		{Name: "Cache-Control", Value: "no-store"},
	}}
	if !p.possible(target) {
		return r
	}
	if prefersHTML(x.Request.Fields) {
		r.body = errorPage(x, v)
		r.fields[0].Value = "text/html; charset=utf-8"
		r.fields = append(r.fields, http1.Field{Name: "Content-Security-Policy", Value: "default-src 'none'; style-src 'unsafe-inline'"})
	}
	r.fields = append(r.fields, http1.Field{Name: "Vary", Value: "Accept"})
	return r
}
