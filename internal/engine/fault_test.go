package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFaultsAreOffByDefault(t *testing.T) {
	_, url := start(t, Options{})
	if got := do(t, "POST", url+"/v1/completions", `{"prompt":"Once","fault":"status=500"}`, "X-Fault", "kill"); got.StatusCode != http.StatusOK {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestParseFault(t *testing.T) {
	for _, bad := range []string{"explode", "exit", "exit=256", "cut=-1", "cut=x", "slow=fast", "status=200", "after=0"} {
		if f, err := parseFault(bad); err == nil {
			t.Errorf("%q: %+v", bad, f)
		}
	}
	f, err := parseFault("exit=3, after=2,slow")
	if err != nil || *f.death != (death{code: 3}) || f.after != 2 || f.slow != time.Second || f.cut != -1 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestCuts: a broken answer looks broken, a clean cut looks whole but lacks its end.
func TestCuts(t *testing.T) {
	e, url := start(t, Options{Faults: true})
	for name, c := range map[string]struct {
		fault, body string
		events      int
		broken      bool
	}{
		"stream cut":            {"cut=3", `{"prompt":"a","stream":true}`, 3, true},
		"stream cut before all": {"cut=0", `{"prompt":"a","stream":true}`, 0, true},
		"stream clean cut":      {"clean-cut=2", `{"prompt":"a","stream":true}`, 2, false},
		"cut in the JSON field": {"", `{"prompt":"a","stream":true,"fault":"cut=1"}`, 1, true},
		"cut past the last":     {"cut=1000", `{"prompt":"a","stream":true,"max_tokens":1}`, 3, false},
		"slow, then cut":        {"slow=1ms,cut=2", `{"prompt":"a","stream":true}`, 2, true},
		"before the last, DONE": {"clean-cut=2", `{"prompt":"a","stream":true,"max_tokens":1}`, 2, false},
		"unary cut":             {"cut=10", `{"prompt":"a"}`, 0, true},
		"unary cut, clean":      {"clean-cut=10", `{"prompt":"a"}`, 0, false},
	} {
		got := do(t, "POST", url+"/v1/completions", c.body, "X-Fault", c.fault)
		events := strings.Count(got.body, "\n\n")
		if events != c.events || (got.err != nil) != c.broken {
			t.Errorf("%s: %d events, error %v, want %d, broken %t", name, events, got.err, c.events, c.broken)
		}
		if strings.HasPrefix(name, "unary") && len(got.body) != 10 {
			t.Errorf("%s: %d bytes", name, len(got.body))
		}
	}
	if s := e.Stats(); s.Failed != 8 || s.Completed != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	_, url := start(t, Options{Faults: true})
	if got := do(t, "POST", url+"/v1/completions", `{"prompt":"a"}`, "X-Fault", "status=429"); got.StatusCode != http.StatusTooManyRequests || !strings.Contains(got.body, `"error"`) {
		t.Errorf("status: %d %s", got.StatusCode, got.body)
	}
	if got := do(t, "POST", url+"/v1/completions", `{"prompt":"a"}`, "X-Fault", "bang"); got.StatusCode != http.StatusBadRequest {
		t.Errorf("unknown fault: %d %s", got.StatusCode, got.body)
	}
	if got := do(t, "POST", url+"/v1/completions", `{"prompt":"a"}`, "X-Fault", "headers=5000"); len(got.Header.Get("X-Large")) != 5000 {
		t.Errorf("headers: %d bytes", len(got.Header.Get("X-Large")))
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Fault: garbage\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}")
	if got, err := io.ReadAll(conn); err != nil || len(got) == 0 || strings.HasPrefix(string(got), "HTTP") {
		t.Errorf("garbage: %q, %v", got, err)
	}
}

// TestHangs: one request, or all; whoever hangs up is counted as gone.
func TestHangs(t *testing.T) {
	e, url := start(t, Options{Faults: true, DecodeRate: 1000})
	hung := func(header string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/completions", strings.NewReader(`{"prompt":"a","max_tokens":1}`))
		req.Header.Set("X-Fault", header)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("%q: answered %s", header, resp.Status)
		}
	}
	stream, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"a","stream":true,"ignore_eos":true,"max_tokens":100000}`))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	hung("hang")
	if got := do(t, "POST", url+"/v1/completions", `{"prompt":"a","max_tokens":1}`); got.StatusCode != http.StatusOK {
		t.Errorf("another: %d", got.StatusCode)
	}
	hung("hang-all")
	hung("")
	if got := do(t, "GET", url+"/health", ""); got.StatusCode != http.StatusOK {
		t.Errorf("health: %d", got.StatusCode)
	}
	eventually(t, "counted", func() bool { return e.Stats().Aborted == 2 }) // the third never got as far
	if s := e.Stats(); s.Running != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBlocked: not even /health is answered.
func TestBlocked(t *testing.T) {
	_, url := start(t, Options{Faults: true})
	unanswered := func(method, path string, fields ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(`{"prompt":"a","max_tokens":1}`))
		for _, fault := range fields {
			req.Header.Set("X-Fault", fault)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("%s: answered %s", path, resp.Status)
		}
	}
	unanswered("POST", "/v1/completions", "block")
	unanswered("GET", "/health")
	unanswered("POST", "/v1/completions")
}

// TestQueuedHealth: /health is as slow as the batch is full.
func TestQueuedHealth(t *testing.T) {
	e, url := start(t, Options{Slots: 1, DecodeRate: 1000, HealthQueued: true})
	if got := do(t, "GET", url+"/health", ""); got.StatusCode != http.StatusOK {
		t.Errorf("at rest: %d", got.StatusCode)
	}
	stream, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"a","stream":true,"ignore_eos":true,"max_tokens":100000}`))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	eventually(t, "the batch full", func() bool { return e.Stats().Running == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", http.NoBody)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("while it is full: %s", resp.Status)
	}
	stream.Body.Close()
	if got := do(t, "GET", url+"/health", ""); got.StatusCode != http.StatusOK {
		t.Errorf("when it has room: %d", got.StatusCode)
	}
}

func TestBulk(t *testing.T) {
	_, url := start(t, Options{Faults: true})
	got := do(t, "POST", url+"/v1/completions", `{"prompt":"a","fault":"bulk=100000"}`)
	if n := strings.Count(got.body, "data: {"); n != 4 || !strings.HasSuffix(got.body, "data: [DONE]\n\n") || len(got.body) < 100000 {
		t.Errorf("%d events in %d bytes", n, len(got.body))
	}
}

// TestDeathAfterTokens: the process outlives it here, since die is the test's.
func TestDeathAfterTokens(t *testing.T) {
	e, url := start(t, Options{Faults: true})
	died := make(chan death, 10)
	e.die = func(d death) { died <- d; panic(http.ErrAbortHandler) }
	got := do(t, "POST", url+"/v1/completions", `{"prompt":"a","stream":true}`, "X-Fault", "kill,after=2")
	if got.err == nil || strings.Count(got.body, "\n\n") < 2 {
		t.Errorf("%v after %s", got.err, got.body)
	}
	if d := <-died; d.signal != syscall.SIGKILL {
		t.Errorf("%+v", d)
	}
}
