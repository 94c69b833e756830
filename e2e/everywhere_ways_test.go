//go:build e2e

package e2e

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
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
