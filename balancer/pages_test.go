package balancer

import (
	"strings"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
)

func TestWhoPrefersHTML(t *testing.T) {
	for accept, want := range map[string]bool{
		"":    false,
		"*/*": false,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true, // browsers
		"text/html":               true,
		"TEXT/HTML;charset=utf-8": true,
		"text/*":                  true,
		"text/html;q=0":           false,
		"text/html;q=0.5, application/json;q=0.5":  false,
		"text/html;q=0.5, application/json;q=0.4":  true,
		"text/html, application/json":              false,
		"application/json, text/html;q=0.9":        false,
		"text/html;q=0.7, application/*;q=0.8":     false,
		"text/*, text/html;q=0.1, */*;q=0.5":       false,
		"*/*, application/json;q=0.1":              true,
		"text/event-stream":                        false,
		"text/html;q=nonsense, application/json;q": false,
	} {
		if got := prefersHTML(http1.Fields{{Name: "Accept", Value: accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

func TestErrorPage(t *testing.T) {
	p := newPages(&Pages{HTML: true, JSONPaths: []string{"/v1", "/api/"}})
	browser := http1.Fields{{Name: "Accept", Value: "text/html,*/*;q=0.8"}}
	v := verdict{ending: &ending{status: 404, kind: "not_found", code: "no_route", message: `nothing at "<script>"`}}
	for target, want := range map[string]string{
		"/": "text/html; charset=utf-8", "/v10": "text/html; charset=utf-8", "/chat?x=/v1": "text/html; charset=utf-8",
		"/v1": "application/json", "/v1/models?x": "application/json", "/api": "application/json", "/api/x": "application/json",
	} {
		x := &exchange.Exchange{Request: http1.Request{Fields: browser}}
		x.Record.ID = "<id>"
		r := p.errorReply(x, target, &v)
		if got := r.fields.Get("Content-Type"); got != want {
			t.Errorf("%s: %s", target, got)
		}
		html := want != "application/json"
		if r.fields.Has("Vary") != html || r.fields.Has("Content-Security-Policy") != html || r.fields.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", target, r.fields)
		}
		body := string(r.body)
		if html && (!strings.Contains(body, "404 Not Found") || !strings.Contains(body, "&lt;script&gt;") || strings.Contains(body, "<script>") || strings.Contains(body, "<id>") || strings.Contains(body, "://")) {
			t.Errorf("%s", body)
		}
	}
	var off pages
	if r := off.errorReply(&exchange.Exchange{Request: http1.Request{Fields: browser}}, "/", &v); r.fields.Has("Vary") || r.fields.Get("Content-Type") != "application/json" {
		t.Errorf("%v", r.fields)
	}
}
