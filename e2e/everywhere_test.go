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
		{"HTTP/1.1", "http://" + m.address, 1, cleartext(false)},
		{"h2c", "http://" + m.address, 2, cleartext(true)},
		{"TLS, HTTP/1.1", "https://" + s.address, 1, s.client(t, false)},
		{"TLS, HTTP/2", "https://" + s.address, 2, s.client(t, true)},
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
[compression]
encodings = ["zstd", "gzip"]

[[routes]]
host = "127.0.0.1"
pool = "a"
`

// TestEverywhere: what this program does to requests and answers, asked in each
// way in which clients speak. All of it must be the same.
func TestEverywhere(t *testing.T) {
	s := newSecure(t)
	engine := startEverywhere(t, "a")
	m := start(t, s.config+everywhere+fmt.Sprintf("[[pools]]\nname = \"a\"\n[[pools.servers]]\naddress = %q\n", engine)).ready()
	cases := slices.Concat(compressionCases(), pageCases(), traceCases())
	for _, w := range ways(t, m, s) {
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
	const vary = "Vary: Accept-Encoding"
	return []everywhereCase{
		{"compressed: zstd", ask{path: "/bulk", fields: "Accept-Encoding: gzip, zstd, br"}, whole(bulk, "Content-Encoding: zstd", vary, `ETag: W/"b1"`, "Accept-Ranges:")},
		{"compressed: gzip", ask{path: "/bulk", fields: "Accept-Encoding: zstd;q=0, gzip;q=0.1"}, whole(bulk, "Content-Encoding: gzip", vary)},
		{"compressed: huge", ask{path: "/huge", fields: "Accept-Encoding: gzip"}, whole(huge, "Content-Encoding: gzip", vary)},
		{"compressed: of unknown length", ask{path: "/pieces", fields: "Accept-Encoding: zstd"}, whole(bulk+bulk, "Content-Encoding: zstd", vary)},
		{"plain: not asked for", ask{path: "/bulk"}, whole(bulk, "Content-Encoding:", vary, `ETag: "b1"`, "Accept-Ranges: bytes", fmt.Sprint("Content-Length: ", len(bulk)))},
		{"plain: liked better", ask{path: "/bulk", fields: "Accept-Encoding: identity, gzip;q=0.9"}, whole(bulk, "Content-Encoding:", vary)},
		{"plain: events", ask{path: "/events", fields: "Accept-Encoding: gzip"}, func(a *told) {
			a.expect(200, "Content-Encoding:", "Vary:", "Content-Type: text/event-stream")
			if strings.Count(a.body, "data: ") != 50 {
				a.t.Errorf("%q", a.body)
			}
		}},
		{"plain: packed already", ask{path: "/packed", fields: "Accept-Encoding: zstd, gzip"}, whole(bulk, "Content-Encoding: gzip", "Vary:")},
		{"plain: no-transform", ask{path: "/as-it-is", fields: "Accept-Encoding: gzip"}, whole(bulk, "Content-Encoding:", "Vary:")},
		{"plain: a part", ask{path: "/bulk", fields: "Accept-Encoding: gzip\nRange: bytes=0-1999"}, func(a *told) {
			a.expect(206, "Content-Encoding:", "Vary:", "Content-Length: 2000")
		}},
		{"plain: small", ask{path: "/small", fields: "Accept-Encoding: gzip"}, func(a *told) { a.expect(200, "Content-Encoding:", "Vary:") }},
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
			a.expect(status, "Content-Type: text/html; charset=utf-8", "Vary: Accept", "Cache-Control: no-store")
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
