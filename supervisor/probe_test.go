package supervisor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/config"
)

func TestHTTPProbe(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // is for the world outside
	release := make(chan struct{})
	mux := http.NewServeMux()
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	mux.HandleFunc("/ok", answer(200, "fine"))
	mux.HandleFunc("/empty", answer(204, ""))
	mux.HandleFunc("/missing", answer(404, ""))
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/loading", answer(503, `{"error":"Loading model"}`))
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			_, _ = w.Write(make([]byte, 1024))
		}
	})
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/halfway", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	tcp := httptest.NewServer(mux)
	defer tcp.Close()
	defer close(release)
	dir := t.TempDir()
	socket := filepath.Join(dir, "h")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := httptest.NewUnstartedServer(mux)
	unix.Listener.Close()
	unix.Listener = l
	unix.Start()
	defer unix.Close()

	cases := []struct {
		path string
		want string // part of the error; empty: well
	}{
		{"/ok", ""},
		{"/empty", ""},
		{"", ""}, // GET /health is 404, which is an answer
		{"/missing", "answered 404"},
		{"/moved", "answered 302"},
		{"/loading", `answered 503 Service Unavailable: {"error":"Loading model"}`},
		{"/endless", ""},
		{"/silent", "no answer in time"},
		{"/halfway", "no answer in time"},
	}
	for _, address := range []string{strings.TrimPrefix(tcp.URL, "http://"), "unix:" + socket} {
		for _, c := range cases {
			limit := 10 * time.Second
			if strings.Contains(c.want, "in time") {
				limit = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			err := newHTTPProbe(config.Health{Path: c.path}, address, manner{})(ctx)
			cancel()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s at %s: %v, want %q", c.path, address, err, c.want)
			}
		}
	}
	for _, address := range []string{"127.0.0.1:1", "unix:" + filepath.Join(dir, "absent")} {
		if err := newHTTPProbe(config.Health{}, address, manner{})(t.Context()); !errors.Is(err, errRefused) {
			t.Errorf("nobody at %s: %v", address, err)
		}
	}
}
