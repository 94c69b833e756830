//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// way is how a client speaks.
type way struct {
	name   string
	base   string
	major  int
	client *http.Client
	key    string // that requests have, unless they say another; empty: none
}

// ways are all ways in which clients may speak to m.
func ways(t *testing.T, m *master, s *secure) []way {
	t.Helper()
	cleartext := func(http2 bool) *http.Client {
		p := new(http.Protocols)
		p.SetHTTP1(!http2)
		p.SetUnencryptedHTTP2(http2)
		transport := &http.Transport{Protocols: p}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: patience}
	}
	all := []way{
		{name: "HTTP/1.1", base: "http://" + m.address, major: 1, client: cleartext(false)},
		{name: "h2c", base: "http://" + m.address, major: 2, client: cleartext(true)},
		{name: "TLS, HTTP/1.1", base: "https://" + s.address, major: 1, client: s.client(t, false)},
		{name: "TLS, HTTP/2", base: "https://" + s.address, major: 2, client: s.client(t, true)},
	}
	for _, w := range all {
		w.client.Transport.(*http.Transport).DisableCompression = true
		w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return all
}

// ask is a request, in a line or two.
type ask struct {
	method string // GET, or POST with a body
	host   string
	path   string
	fields string // "Name: value" by lines
	body   string
	length bool // the body's length is said; else it is not known
	trail  string
}

// told is an answer, with what the engine says it was asked.
type told struct {
	*http.Response
	t    *testing.T
	way  way
	body string
	seen seenRequest
}

// seenRequest is what the engine tells of a request.
type seenRequest struct {
	Engine, Method, Target, Host, Body string
	Header, Trailer                    http.Header
}

func (w way) ask(t *testing.T, a ask) *told {
	t.Helper()
	var body io.Reader
	switch {
	case a.body == "":
	case a.length:
		body = strings.NewReader(a.body)
	default:
		body = struct{ io.Reader }{strings.NewReader(a.body)}
	}
	if a.method == "" {
		a.method = http.MethodGet
		if body != nil {
			a.method = http.MethodPost
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), a.method, w.base+a.path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = a.host
	for line := range strings.SplitSeq(a.fields, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			r.Header.Add(name, value)
		}
	}
	if w.key != "" && r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+w.key)
	}
	if a.trail != "" {
		r.Trailer = http.Header{"X-Checksum": {a.trail}}
	}
	response, err := w.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%d, then %v", response.StatusCode, err)
	}
	result := &told{Response: response, t: t, way: w, body: string(got)}
	_ = json.Unmarshal(got, &result.seen) // where it is that
	if response.ProtoMajor != w.major {
		t.Errorf("answered over %s", response.Proto)
	}
	return result
}

// expect checks the status, and fields written as "Name: value"; "Name:" alone is one that is not there.
func (a *told) expect(status int, fields ...string) {
	t := a.t
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: status %d, want %d: %s", a.way.name, a.StatusCode, status, a.body[:min(300, len(a.body))])
	}
	for _, f := range fields {
		name, want, _ := strings.Cut(f, ":")
		want = strings.TrimSpace(want)
		if got := strings.Join(a.Header.Values(name), ", "); got != want {
			t.Errorf("%s: %s: %s, want %s", a.way.name, name, got, want)
		}
	}
}

func (a *told) unpacked() string {
	t := a.t
	t.Helper()
	var in io.Reader = strings.NewReader(a.body)
	var err error
	switch coding := a.Header.Get("Content-Encoding"); coding {
	case "gzip":
		in, err = gzip.NewReader(in)
	case "zstd":
		in, err = zstd.NewReader(in)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// bulk is what the engine answers to /bulk: some 40 KiB of JSON.
var bulk = `{"data":[` + strings.TrimSuffix(strings.Repeat(`{"object":"embedding","index":1,"embedding":[0.0012,-0.13]},`, 700), ",") + `]}`

// huge is large enough to be moved inside the kernel.
var huge = strings.Repeat(bulk, 30)

// startEverywhere makes the engine, and a server for a pool.
func startEverywhere(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { everywhereEngine(w, r, name) })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

func everywhereEngine(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Server"] = []string{"engine"}
	sized := func(body string) {
		h.Set("Content-Length", fmt.Sprint(len(body)))
		if r.Method != http.MethodHead {
			io.WriteString(w, body)
		}
	}
	switch r.URL.Path {
	case "/health":
	case "/bulk":
		h.Set("ETag", `"b1"`)
		h.Set("Accept-Ranges", "bytes")
		switch {
		case r.Header.Get("If-None-Match") == `W/"b1"`:
			w.WriteHeader(http.StatusNotModified)
		case r.Header.Get("Range") != "":
			h.Set("Content-Range", fmt.Sprintf("bytes 0-1999/%d", len(bulk)))
			h.Set("Content-Length", "2000")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, bulk[:2000])
		default:
			sized(bulk)
		}
	case "/huge":
		sized(huge)
	case "/pieces": // of unknown length, with a pause between: the second waits for the first's reader
		io.WriteString(w, bulk)
		w.(http.Flusher).Flush()
		io.WriteString(w, bulk)
	case "/packed":
		h.Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, bulk)
		z.Close()
		sized(b.String())
	case "/as-it-is":
		h.Set("Cache-Control", "no-transform")
		sized(bulk)
	case "/trailers":
		h.Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		h.Set("X-Sum", "42")
	case "/events":
		h.Set("Content-Type", "text/event-stream")
		for i := range 50 {
			fmt.Fprintf(w, "data: {\"n\":%d}\n\n", i)
			w.(http.Flusher).Flush()
		}
	default:
		body, _ := io.ReadAll(r.Body)
		text, _ := json.Marshal(seenRequest{name, r.Method, r.RequestURI, r.Host, string(body), r.Header, r.Trailer})
		sized(string(text))
	}
}

// everywhere is one configuration for all that follows.
const everywhere = `
[access]
keys_file = "{keys}"
[cors]
origins = ["https://chat.example.com"]
[clients]
body_mib = 1
[compression]
encodings = ["zstd", "gzip"]
[[limits]]
name = "few"
per = "key"
route = "limited"
window = "1h"
requests = 2

[[routes]]
path = "/api"
rewrite = "/v1"
pool = "a"
request.set = { X-Tenant = "acme" }
request.remove = ["Cookie"]
response.remove = ["Server"]
response.set = { X-Frame-Options = "DENY" }
[[routes]]
path = "/old/{id}"
redirect = "{scheme}://new.test/{id}{path}?{query}"
redirect_status = 301
[[routes]]
path = "/ping"
exact = true
answer = { status = 203, body = "pong" }
[[routes]]
path = "/limited"
name = "limited"
pool = "a"
[[routes]]
path = "/sticky"
pool = "b"
[[routes]]
path = "/v1/chat"
models = ["big*"]
aliases = { gpt-4o = "big-1" }
pool = "b"
[[routes]]
host = "*.wild.test"
methods = ["GET"]
pool = "b"
[[routes]]
host = "127.0.0.1"
pool = "a"

[[pools]]
name = "a"
[[pools.servers]]
address = "{a}"
[[pools]]
name = "b"
affinity.by = "cookie:lane"
[[pools.servers]]
address = "{b}"
[[pools.servers]]
address = "{c}"
`

// TestEverywhere: what this program does to requests and answers, asked in each
// way in which clients speak. All of it must be the same.
func TestEverywhere(t *testing.T) {
	s := newSecure(t)
	file := filepath.Join(t.TempDir(), "keys")
	config := strings.NewReplacer("{keys}", file, "{a}", startEverywhere(t, "a"), "{b}", startEverywhere(t, "b"), "{c}", startEverywhere(t, "c")).Replace(everywhere)
	keys := make([]string, 4)
	for i := range keys {
		out, err := exec.Command(binary, "key", "add", fmt.Sprint("client-", i), "--file", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = strings.TrimSpace(string(out))
	}
	m := start(t, s.config+config).ready()
	m.eventually("everybody ready", func() bool {
		_, body, err := m.admin("/readyz")
		return err == nil && strings.Contains(body, `"healthy"`)
	})
	cases := slices.Concat(routeCases(), accessCases(), bodyCases(), compressionCases(), pageCases(), traceCases())
	for i, w := range ways(t, m, s) {
		w.key = keys[i]
		t.Run(w.name, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.check(w.ask(t, c.ask)) })
			}
		})
	}
	m.stop()
}

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
