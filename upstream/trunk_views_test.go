package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unsafe"

	"stoker/exchange"
	"stoker/internal/http1"
)

// A request's strings are views into a buffer that the next request is read into, and an
// HTTP/2 connection remembers fields for as long as it lives: what it remembered
// changed, and a request was sent with another's path or key, or the process ended
// by a panic in its table. Same lengths at the same places make it so.
func TestHTTP2KeepsNoViewsOfRequests(t *testing.T) {
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Asked", fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Host, r.Header.Get("X-Key")))
	})
	buffer := make([]byte, 0, 256)
	view := func(text string) string {
		at := len(buffer)
		buffer = append(buffer, text...)
		return unsafe.String(&buffer[at], len(text))
	}
	for i := range 2000 {
		n := i * 7919 % 1000
		method, target, host, key := "GET", fmt.Sprintf("/path/%03d", n), fmt.Sprintf("host%03d", n), fmt.Sprintf("secret-%03d", n)
		x := &exchange.Exchange{Request: http1.Request{
			Method: view(method), Target: view(target), Authority: view(host), Fields: http1.Fields{{Name: view("X-Key"), Value: view(key)}},
		}}
		notes := newNotes(t)
		if err := tr.Do(t.Context(), x, notes); err != nil {
			t.Fatal(err)
		}
		if asked, want := notes.fields.Get("X-Asked"), strings.Join([]string{method, target, host, key}, " "); asked != want {
			t.Fatalf("request %d: the engine was asked %q, want %q", i, asked, want)
		}
		buffer = buffer[:0]
	}
}
