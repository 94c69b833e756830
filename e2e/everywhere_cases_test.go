//go:build e2e

package e2e

import (
	"fmt"
	"strings"
)

// everywhereCase is a row of the table.
type everywhereCase struct {
	name  string
	ask   ask
	check func(a *told)
}

func compressionCases() []everywhereCase {
	whole := func(want string, fields ...string) func(*told) {
		return func(a *told) {
			a.expect(200, fields...)
			if got := a.unpacked(); got != want {
				a.t.Errorf("%d bytes, want %d", len(got), len(want))
			}
			if packed := a.Header.Get("Content-Encoding") != ""; packed && len(a.body) > len(want)/5 {
				a.t.Errorf("compressed to %d of %d bytes", len(a.body), len(want))
			}
		}
	}
	const vary, plain = "Vary: Origin, Accept-Encoding", "Vary: Origin" // the latter for the sake of CORS
	return []everywhereCase{
		{"compressed: zstd", ask{path: "/bulk", fields: "Accept-Encoding: gzip, zstd, br"}, whole(bulk, "Content-Encoding: zstd", vary, `ETag: W/"b1"`, "Accept-Ranges:")},
		{"compressed: gzip", ask{path: "/bulk", fields: "Accept-Encoding: zstd;q=0, gzip;q=0.1"}, whole(bulk, "Content-Encoding: gzip", vary)},
		{"compressed: huge", ask{path: "/huge", fields: "Accept-Encoding: gzip"}, whole(huge, "Content-Encoding: gzip", vary)},
		{"compressed: of unknown length", ask{path: "/pieces", fields: "Accept-Encoding: zstd"}, whole(bulk+bulk, "Content-Encoding: zstd", vary)},
		{"plain: not asked for", ask{path: "/bulk"}, whole(bulk, "Content-Encoding:", vary, `ETag: "b1"`, "Accept-Ranges: bytes", fmt.Sprint("Content-Length: ", len(bulk)))},
		{"plain: liked better", ask{path: "/bulk", fields: "Accept-Encoding: identity, gzip;q=0.9"}, whole(bulk, "Content-Encoding:", vary)},
		{"plain: events", ask{path: "/events", fields: "Accept-Encoding: gzip"}, func(a *told) {
			a.expect(200, "Content-Encoding:", plain, "Content-Type: text/event-stream")
			if strings.Count(a.body, "data: ") != 50 {
				a.t.Errorf("%q", a.body)
			}
		}},
		{"plain: packed already", ask{path: "/packed", fields: "Accept-Encoding: zstd, gzip"}, whole(bulk, "Content-Encoding: gzip", plain)},
		{"plain: no-transform", ask{path: "/as-it-is", fields: "Accept-Encoding: gzip"}, whole(bulk, "Content-Encoding:", plain)},
		{"plain: a part", ask{path: "/bulk", fields: "Accept-Encoding: gzip\nRange: bytes=0-1999"}, func(a *told) {
			a.expect(206, "Content-Encoding:", plain, "Content-Length: 2000")
		}},
		{"plain: small", ask{path: "/small", fields: "Accept-Encoding: gzip"}, func(a *told) { a.expect(200, "Content-Encoding:", plain) }},
		{"compressed: head", ask{method: "HEAD", path: "/bulk", fields: "Accept-Encoding: gzip"}, func(a *told) {
			a.expect(200, "Content-Encoding: gzip", vary, "Content-Length:", `ETag: W/"b1"`)
		}},
		{"plain: head", ask{method: "HEAD", path: "/bulk"}, func(a *told) {
			a.expect(200, "Content-Encoding:", vary, fmt.Sprint("Content-Length: ", len(bulk)))
		}},
		{"compressed: not modified", ask{path: "/bulk", fields: "Accept-Encoding: gzip\nIf-None-Match: W/\"b1\""}, func(a *told) {
			a.expect(304, `ETag: W/"b1"`, "Content-Encoding:")
		}},
	}
}

func pageCases() []everywhereCase {
	const browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	page := func(status int) func(*told) {
		return func(a *told) {
			a.expect(status, "Content-Type: text/html; charset=utf-8", "Vary: Accept, Origin", "Cache-Control: no-store")
			if !strings.Contains(a.body, a.Header.Get("X-Request-Id")) || !strings.Contains(a.body, "<h1>"+a.Status) {
				a.t.Errorf("%s", a.body)
			}
		}
	}
	object := func(status int, code string) func(*told) {
		return func(a *told) {
			a.expect(status, "Content-Type: application/json")
			if !strings.Contains(a.body, `"code":"`+code+`"`) {
				a.t.Errorf("%s", a.body)
			}
		}
	}
	return []everywhereCase{
		{"error: a page for browsers", ask{host: "nowhere.test", path: "/", fields: browser}, page(404)},
		{"error: JSON for programs", ask{host: "nowhere.test", path: "/"}, object(404, "no_route")},
		{"error: JSON for those that take all", ask{host: "nowhere.test", path: "/", fields: "Accept: */*"}, object(404, "no_route")},
		{"error: JSON below /v1", ask{host: "nowhere.test", path: "/v1/models", fields: browser}, object(404, "no_route")},
		{"error: head of a page", ask{method: "HEAD", host: "nowhere.test", path: "/", fields: browser}, func(a *told) {
			a.expect(404, "Content-Type: text/html; charset=utf-8")
		}},
	}
}

func traceCases() []everywhereCase {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	passes := func(traceparent, tracestate string) func(*told) {
		return func(a *told) {
			a.expect(200)
			if got := a.seen.Header.Get("Traceparent"); got != traceparent {
				a.t.Errorf("traceparent %q, want %q", got, traceparent)
			}
			if got := strings.Join(a.seen.Header.Values("Tracestate"), ","); got != tracestate {
				a.t.Errorf("tracestate %q, want %q", got, tracestate)
			}
		}
	}
	return []everywhereCase{
		{"trace: passed on", ask{path: "/x", fields: "Traceparent: " + parent + "\nTracestate: a=1"}, passes(parent, "a=1")},
		{"trace: none", ask{path: "/x"}, passes("", "")},
		{"trace: nonsense", ask{path: "/x", fields: "Traceparent: 00-1-2-3\nTracestate: a=1"}, passes("", "")},
		{"trace: two parents", ask{path: "/x", fields: "Traceparent: " + parent + "\nTraceparent: " + parent}, passes("", "")},
		{"trace: bad state", ask{path: "/x", fields: "Traceparent: " + parent + "\nTracestate: A"}, passes(parent, "")},
		{"trace: state alone", ask{path: "/x", fields: "Tracestate: a=1"}, passes("", "")},
	}
}

func routeCases() []everywhereCase {
	by := func(engine, target string) func(*told) {
		return func(a *told) {
			a.expect(200)
			if a.seen.Engine != engine || a.seen.Target != target {
				a.t.Errorf("%s answered %s", a.seen.Engine, a.seen.Target)
			}
		}
	}
	return []everywhereCase{
		{"route: rewritten, with other fields", ask{path: "/api/models?x=%41", fields: "Cookie: a=b\nX-Tenant: other"}, func(a *told) {
			by("a", "/v1/models?x=%41")(a)
			a.expect(200, "Server:", "X-Frame-Options: DENY")
			if h := a.seen.Header; h.Get("X-Tenant") != "acme" || h.Get("Cookie") != "" {
				a.t.Errorf("%v", h)
			}
		}},
		{"route: redirected", ask{path: "/old/7?q=1"}, func(a *told) {
			scheme, _, _ := strings.Cut(a.way.base, ":")
			a.expect(301, "Location: "+scheme+"://new.test/7/old/7?q=1")
		}},
		{"route: answered", ask{path: "/ping"}, func(a *told) {
			a.expect(203, "Content-Type: text/plain; charset=utf-8", "Content-Length: 4")
			if a.body != "pong" {
				a.t.Errorf("%q", a.body)
			}
		}},
		{"route: answered, head", ask{method: "HEAD", path: "/ping"}, func(a *told) { a.expect(203, "Content-Length: 4") }},
		{"route: by host", ask{host: "x.wild.test", path: "/y"}, func(a *told) {
			a.expect(200)
			if a.seen.Engine == "a" || a.seen.Host != "x.wild.test" {
				a.t.Errorf("%+v", a.seen)
			}
		}},
		{"route: not by method", ask{host: "x.wild.test", path: "/y", body: "x"}, func(a *told) { a.expect(404) }},
		{"route: by model", ask{path: "/v1/chat/completions", body: `{"prompt":"` + strings.Repeat("x", 300<<10) + `","model":"gpt-4o"}`}, func(a *told) {
			a.expect(200)
			if a.seen.Engine == "a" || !strings.HasSuffix(a.seen.Body, `"model":"big-1"}`) {
				a.t.Errorf("%s was told %d bytes", a.seen.Engine, len(a.seen.Body))
			}
		}},
		{"route: first request of a lane", ask{path: "/sticky"}, func(a *told) {
			a.expect(200)
			lane, _, _ := strings.Cut(a.Header.Get("Set-Cookie"), ";")
			if !strings.HasPrefix(lane, "lane=") {
				a.t.Fatalf("%v", a.Header)
			}
			for range 4 {
				again := a.way.ask(a.t, ask{path: "/sticky", fields: "Cookie: " + lane})
				again.expect(200, "Set-Cookie:")
				if again.seen.Engine != a.seen.Engine {
					a.t.Errorf("%s, then %s", a.seen.Engine, again.seen.Engine)
				}
			}
		}},
	}
}

func accessCases() []everywhereCase {
	return []everywhereCase{
		{"key: a wrong one", ask{path: "/x", fields: "Authorization: Bearer sk-wrong"}, func(a *told) { a.expect(401, `WWW-Authenticate: Bearer realm="stoker"`) }},
		{"key: not passed on", ask{path: "/x"}, func(a *told) {
			a.expect(200)
			if a.seen.Header.Get("Authorization") != "" {
				a.t.Error("the engine was told the key")
			}
		}},
		{"limit", ask{path: "/limited"}, func(a *told) {
			a.expect(200, "RateLimit-Limit: 2", "RateLimit-Remaining: 1")
			a.way.ask(a.t, ask{path: "/limited"}).expect(200, "RateLimit-Remaining: 0")
			over := a.way.ask(a.t, ask{path: "/limited"})
			over.expect(429)
			if over.Header.Get("Retry-After") == "" {
				a.t.Errorf("%v", over.Header)
			}
			a.way.ask(a.t, ask{path: "/x"}).expect(200, "RateLimit-Limit:")
		}},
		{"preflight", ask{method: "OPTIONS", path: "/x", fields: "Origin: https://chat.example.com\nAccess-Control-Request-Method: POST"}, func(a *told) {
			a.expect(204, "Access-Control-Allow-Origin: https://chat.example.com")
		}},
		{"page of another origin", ask{method: "OPTIONS", path: "/x", fields: "Origin: https://evil.example.com\nAccess-Control-Request-Method: POST"}, func(a *told) {
			a.expect(403, "Access-Control-Allow-Origin:")
		}},
		{"page", ask{path: "/x", fields: "Origin: https://chat.example.com"}, func(a *told) {
			a.expect(200, "Access-Control-Allow-Origin: https://chat.example.com")
		}},
	}
}

func bodyCases() []everywhereCase {
	echoes := func(body string) func(*told) {
		return func(a *told) {
			a.expect(200)
			if a.seen.Body != body {
				a.t.Errorf("%d bytes came, of %d", len(a.seen.Body), len(body))
			}
		}
	}
	large := strings.Repeat("0123456789", 100000)
	return []everywhereCase{
		{"body: sized", ask{path: "/x", body: "abc", length: true}, echoes("abc")},
		{"body: of unknown length", ask{path: "/x", body: "abc"}, echoes("abc")},
		{"body: large", ask{path: "/x", body: large, length: true}, echoes(large)},
		{"body: large, of unknown length", ask{path: "/x", body: large}, echoes(large)},
		{"body: too large", ask{path: "/x", body: large + large, length: true}, func(a *told) { a.expect(413) }},
		{"body: too large, of unknown length", ask{path: "/x", body: large + large}, func(a *told) { a.expect(413) }},
		{"trailers: up", ask{path: "/x", body: "abc", trail: "sum"}, func(a *told) {
			echoes("abc")(a)
			if a.seen.Trailer.Get("X-Checksum") != "sum" {
				a.t.Errorf("%v", a.seen.Trailer)
			}
		}},
		{"trailers: down", ask{path: "/trailers"}, func(a *told) {
			a.expect(200)
			if a.body != "body" || a.Trailer.Get("X-Sum") != "42" {
				a.t.Errorf("%q %v", a.body, a.Trailer)
			}
		}},
	}
}
