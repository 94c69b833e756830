package recorder

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestCurlAsItIsPasted runs the command in a shell with curl itself, and looks at
// what a server gets of it.
func TestCurlAsItIsPasted(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("STOKER_E2E_REQUIRE") != "" {
			t.Fatal("no curl, and it is required: apt-get install curl")
		}
		t.Skip("SKIPPED: no curl: apt-get install curl")
	}
	type got struct {
		method, target, body string
		header               http.Header
		length               int64
	}
	seen := make(chan got, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen <- got{r.Method, r.RequestURI, string(body), r.Header, r.ContentLength}
	}))
	defer server.Close()
	v6, err := net.Listen("tcp", "[::1]:0")
	bases := []string{server.URL}
	if err == nil { // else the machine has no such address
		other := httptest.NewUnstartedServer(server.Config.Handler)
		_ = other.Listener.Close()
		other.Listener = v6
		other.Start()
		defer other.Close()
		bases = append(bases, other.URL)
	}
	json := []Field{{Name: "Content-Type", Value: "application/json"}}
	for _, tc := range []struct {
		name, method, target, body string
		fields                     []Field
	}{
		{"JSON", "POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"it's $HOME, \"quoted\" \\ and \u0000 !!"}]}`, json},
		{"new lines and tabs", "POST", "/v1", "{\n\t\"a\": 1\n}\n", json},
		{"carriage returns", "POST", "/v1", "a=1\r\nb=2\r\n", nil},
		{"UTF-8", "POST", "/v1", `{"a":"žluťoučký 漢字 😀 ` + "\u202e" + `"}`, json},
		{"broken UTF-8", "POST", "/v1", "caf\xe9 \xff", nil},
		{"binary", "POST", "/v1", "\x00\x01\x1b[2J\xff", []Field{{Name: "Content-Type", Value: "application/octet-stream"}}},
		{"what curl would take for a file", "POST", "/v1", "@/etc/passwd", nil},
		{"larger than one argument may be", "POST", "/v1", `{"a":"` + strings.Repeat("it's long. ", 20<<10) + `"}`, json},
		{"no body", "GET", "/health", "", nil},
		{"a body with GET", "GET", "/v1", "{}", json},
		{"POST without a body", "POST", "/v1/stop", "", nil},
		{"PUT", "PUT", "/v1/x", "x", nil},
		{"DELETE", "DELETE", "/v1/x", "", nil},
		{"what curl would expand", "GET", "/v1?a=[1-3]&b={x,y}&c=[&d=%5B", "", nil},
		{"what curl would tidy up", "GET", "/v1/../admin/./x?q", "", nil},
		{"fields", "GET", "/", "", []Field{{"X-Empty", ""}, {"X-Quote", `it's "so"`}, {"User-Agent", "mine; 1.0"}, {"Accept", "a/b"}, {"X-Twice", "1"}, {"X-Twice", "2"}, {"X-At", "@x"}}},
	} {
		for _, base := range bases {
			t.Run(tc.name, func(t *testing.T) {
				q := Request{Method: tc.method, Target: tc.target, Fields: tc.fields, Body: Body{Head: tc.body, Size: int64(len(tc.body))}}
				if !utf8.ValidString(tc.body) {
					q.Body.Head, q.Body.Base64 = base64.StdEncoding.EncodeToString([]byte(tc.body)), true
				}
				command := q.Curl(base)
				shell := exec.Command("sh") // not -c: a word may not be as long as that
				shell.Stdin = strings.NewReader(command + "\n")
				out, err := shell.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s: %.300s", err, out, command)
				}
				if len(seen) != 1 {
					t.Fatalf("%d requests: %.300s", len(seen), command)
				}
				r := <-seen
				if r.method != tc.method || r.target != tc.target || r.body != tc.body || r.length != int64(len(tc.body)) {
					t.Errorf("the server got %s %s with %d bytes %.100q: %.300s", r.method, r.target, r.length, r.body, command)
				}
				for _, f := range tc.fields {
					if !slices.Contains(r.header[f.Name], f.Value) {
						t.Errorf("%s is %q, want %q: %.300s", f.Name, r.header[f.Name], f.Value, command)
					}
				}
				for name := range r.header {
					if !slices.ContainsFunc(tc.fields, func(f Field) bool { return f.Name == name }) && name != "Content-Length" {
						t.Errorf("curl has added %s", fmt.Sprint(name, r.header[name]))
					}
				}
			})
		}
	}
}
