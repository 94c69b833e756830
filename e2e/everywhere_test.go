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
)

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
