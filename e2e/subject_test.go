//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	engineoracle "stoker/internal/engine"
)

// subject is an engine that tests of failures are run on: what starts it, what
// it is asked, and what its exact answer is.
type subject struct {
	name string
	// pool is a configuration of one pool, "p" or "app", with so many workers.
	pool func(t *testing.T, workers int) string
	// request is the nth request: a short one of some 100 ms, or a stream of a second.
	request func(m *master, n int, stream bool) (*http.Request, error)
	// exact says whether an answer is whole and the nth request's own.
	exact func(body []byte, n int, stream bool) bool
	// pid of the engine that answered.
	pid func(http.Header) string
	// exit makes an engine exit with code 0 by itself.
	exit func(address string)
	// block is a request after which the engine that gets it never does anything again.
	block func(m *master) (*http.Request, error)
	// queued is the nth of those that few slots take one after another, with the
	// short one's answer; such are the pool's engines with slow, whose /health waits
	// for a slot, too.
	queued func(m *master, n int) (*http.Request, error)
	slow   func(t *testing.T) string
	// idle is the pool of one engine that closes connections which are idle for so long.
	idle func(t *testing.T, after time.Duration) string
	// chat is a request that both are asked in the same words.
	chat chatForm
}

func subjects() []subject {
	return []subject{
		{
			name: "FastAPI", pool: fastapi,
			request: func(m *master, n int, stream bool) (*http.Request, error) {
				path := fmt.Sprintf("/work/%d?ms=100", n)
				if stream {
					path = fmt.Sprintf("/stream/%d?events=20&ms=50", n)
				}
				return http.NewRequest(http.MethodGet, m.url(path), nil)
			},
			exact: func(body []byte, n int, stream bool) bool {
				if stream {
					return string(body) == streamed(n, 20)
				}
				return string(body) == strings.Repeat(fmt.Sprintf("answer %d ", n), 20)
			},
			pid:  func(h http.Header) string { return h.Get("X-Engine-Pid") },
			exit: func(address string) { _, _ = askEngine(address, "/exit") },
			block: func(m *master) (*http.Request, error) {
				return http.NewRequest(http.MethodGet, m.url("/block"), nil)
			},
			queued: func(m *master, n int) (*http.Request, error) {
				return http.NewRequest(http.MethodGet, m.url(fmt.Sprintf("/queued/%d?ms=250", n)), nil)
			},
			slow: func(t *testing.T) string {
				t.Helper()
				return fastapi(t, 1) + "env.HEALTH_QUEUED = \"1\"\n"
			},
			idle: func(t *testing.T, after time.Duration) string {
				t.Helper()
				return strings.Replace(fastapi(t, 1), `"--uds"`, fmt.Sprintf(`"--timeout-keep-alive", "%.0f", "--uds"`, after.Seconds()), 1)
			},
			chat: fastapiChat{},
		},
		{
			name: "demo engine", pool: demoPool,
			request: func(m *master, n int, stream bool) (*http.Request, error) {
				return http.NewRequest(http.MethodPost, m.url("/v1/completions"), strings.NewReader(demoBody(n, stream)))
			},
			exact: func(body []byte, n int, stream bool) bool {
				return bytes.Equal(masked(body), masked(demoAnswer(n, stream)))
			},
			pid: func(h http.Header) string {
				_, pid, _ := strings.Cut(h.Get("X-Engine"), "/")
				return pid
			},
			exit: func(address string) { askForFault(address, "exit=0") },
			block: func(m *master) (*http.Request, error) {
				return http.NewRequest(http.MethodPost, m.url("/v1/completions"), strings.NewReader(`{"prompt":"x","fault":"block"}`))
			},
			queued: func(m *master, n int) (*http.Request, error) {
				return http.NewRequest(http.MethodPost, m.url("/v1/completions"), strings.NewReader(demoBody(n, false)))
			},
			slow: func(t *testing.T) string {
				t.Helper()
				return strings.NewReplacer(`"--slots","64"`, `"--slots","2"`, `"--faults"`, `"--health-queued"`).Replace(demoPool(t, 1))
			},
			idle: func(t *testing.T, after time.Duration) string {
				t.Helper()
				return strings.Replace(demoPool(t, 1), `"--faults"`, fmt.Sprintf(`"--idle-timeout",%q`, after), 1)
			},
			chat: demoChat{},
		},
	}
}

// demoBody is the nth request to the engine that is built in.
func demoBody(n int, stream bool) string {
	tokens := 10
	if stream {
		tokens = 100
	}
	return fmt.Sprintf(`{"prompt":"%d","seed":1,"ignore_eos":true,"max_tokens":%d,"stream":%t}`, n, tokens, stream)
}

// oracle is that engine inside the test, which says what its answers must be.
var oracle = engineoracle.New(engineoracle.Options{Slots: 64})

// demoAnswer is the whole answer to the nth request, but for what differs from
// run to run.
func demoAnswer(n int, stream bool) []byte {
	answer := httptest.NewRecorder()
	oracle.ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/v1/completions", strings.NewReader(demoBody(n, stream))))
	return answer.Body.Bytes()
}

var runsOwn = regexp.MustCompile(`"id":"(chat)?cmpl-[0-9a-f]{24}"|"created":[0-9]+`)

// masked is an answer without what names its run.
func masked(body []byte) []byte { return runsOwn.ReplaceAll(body, nil) }

// demoPool is a pool of the engine that is built in.
func demoPool(_ *testing.T, workers int) string {
	return fmt.Sprintf("trusted_proxies = [\"127.0.0.0/8\"]\n[[pools]]\nname = \"p\"\nworkers = %d\ncommand = %s\n", workers,
		list(binary, "engine", "--faults", "--name", "{name}", "--load-time", "500ms", "--decode-rate", "100", "--slots", "64", "--socket", "{socket}"))
}

// askForFault asks the built-in engine itself, past any master.
func askForFault(address, fault string) {
	client := http.Client{Transport: unixTransport(address), Timeout: patience}
	request, err := http.NewRequest(http.MethodPost, "http://engine/v1/completions", strings.NewReader(`{"prompt":"x"}`))
	if err != nil {
		return
	}
	request.Header.Set("X-Fault", fault)
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
	}
}

// seen is what a client has seen of one request.
type seen struct {
	n, status   int
	stream      bool
	began, head time.Time
	pid         string
	header      http.Header
	body        []byte
	err         error
}

func (s seen) String() string {
	return fmt.Sprintf("request %d (stream %t): status %d of engine %s, %v, %.200q", s.n, s.stream, s.status, s.pid, s.err, s.body)
}

// ask makes the nth request over a connection of its own.
func (s *subject) ask(m *master, n int, stream bool) seen {
	r := seen{n: n, stream: stream, began: time.Now()}
	request, err := s.request(m, n, stream)
	if err != nil {
		r.err = err
		return r
	}
	return s.send(request, r)
}

// send sends it, and notes in r what comes.
func (s *subject) send(request *http.Request, r seen) seen {
	request.Header.Set("X-Request-Id", fmt.Sprintf("r%d", r.n))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Do(request)
	if err != nil {
		r.err = err
		return r
	}
	defer response.Body.Close()
	r.head, r.status, r.header, r.pid = time.Now(), response.StatusCode, response.Header, s.pid(response.Header)
	r.body, r.err = io.ReadAll(response.Body)
	return r
}
