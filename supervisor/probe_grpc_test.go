package supervisor

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"stoker/config"
)

// newHTTP2Server speaks nothing but HTTP/2, with prior knowledge.
func newHTTP2Server(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handle)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestGRPCProbe: what a server of gRPC may say of its health.
func TestGRPCProbe(t *testing.T) {
	const serves = "\x00\x00\x00\x00\x02\x08\x01"
	for _, c := range []struct {
		name    string
		body    string
		status  string // grpc-status, behind the body if there is one
		service string
		want    string // of the error; empty: well
	}{
		{name: "serves", body: serves, status: "0"},
		{name: "a service", body: serves, status: "0", service: "llm"},
		{name: "does not serve", body: "\x00\x00\x00\x00\x02\x08\x02", status: "0", want: "answered NOT_SERVING"},
		{name: "says nothing", body: "\x00\x00\x00\x00\x00", status: "0", want: "answered UNKNOWN"},
		{name: "a field of later", body: "\x00\x00\x00\x00\x05\x12\x01x\x08\x01", status: "0"},
		{name: "a number of later", body: "\x00\x00\x00\x00\x02\x08\x09", status: "0", want: "with status 9"},
		{name: "unimplemented", status: "12", want: "no grpc.health.v1"},
		{name: "unknown service", status: "5", service: "nobody", want: "of nobody: answered grpc-status 5: who?"},
		{name: "no gRPC", body: "hello", want: "it is no gRPC"},
		{name: "half a message", body: serves[:6], status: "0", want: "no message"},
		{name: "no message", status: "0", want: "no message"},
		{name: "a broken message", body: "\x00\x00\x00\x00\x01\x08", status: "0", want: "no message"},
		{name: "compressed", body: "\x01\x00\x00\x00\x02\x08\x01", status: "0", want: "no message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := newHTTP2Server(t, func(w http.ResponseWriter, r *http.Request) {
				question, _ := io.ReadAll(r.Body)
				want := "\x00\x00\x00\x00\x00"
				if c.service != "" {
					want = "\x00\x00\x00\x00" + string(rune(len(c.service)+2)) + "\x0a" + string(rune(len(c.service))) + c.service
				}
				if r.URL.Path != healthMethod || r.Method != http.MethodPost || r.Header.Get("Te") != "trailers" || string(question) != want {
					t.Errorf("%s %s, %q", r.Method, r.URL.Path, question)
				}
				w.Header().Set("Content-Type", "application/grpc")
				name := http.TrailerPrefix
				if c.body == "" {
					name = ""
				}
				if c.status != "" {
					defer w.Header().Set(name+"Grpc-Status", c.status)
					defer w.Header().Set(name+"Grpc-Message", "who?")
				}
				if c.body != "" {
					io.WriteString(w, c.body)
					w.(http.Flusher).Flush()
				}
			})
			err := newGRPCProbe(config.Health{Service: c.service}, address, manner{http2: true})(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && reasonOf(err) != failAnswered {
				t.Errorf("%v", reasonOf(err))
			}
		})
	}
}

// TestProbesOverHTTP2: a server that speaks nothing else is asked so.
func TestProbesOverHTTP2(t *testing.T) {
	address := newHTTP2Server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"choices":[{}]}`) })
	for name, p := range map[string]probe{
		"http":   newHTTPProbe(config.Health{Path: "/ready"}, address, manner{http2: true}),
		"canary": newCanary(config.Canary{}, address, manner{http2: true}),
	} {
		if err := p(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := newHTTPProbe(config.Health{}, address, manner{})(t.Context()); err == nil {
		t.Error("a server without HTTP/1.1 answers it")
	}
}
