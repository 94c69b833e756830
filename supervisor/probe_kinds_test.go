package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/config"
	"stoker/internal/steady"
)

func TestTCPProbe(t *testing.T) {
	l, err := net.Listen("tcp", steady.Reserve(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := newTCPProbe(l.Addr().String(), manner{})(t.Context()); err != nil {
		t.Errorf("somebody listens: %v", err)
	}
	_ = l.Close()
	for _, address := range []string{l.Addr().String(), "unix:" + filepath.Join(t.TempDir(), "absent")} {
		if err := newTCPProbe(address, manner{})(t.Context()); !errors.Is(err, errRefused) || reasonOf(err) != failRefused {
			t.Errorf("nobody at %s: %v", address, err)
		}
	}
}

func TestCommandProbe(t *testing.T) {
	dir := t.TempDir()
	child := filepath.Join(dir, "child")
	cases := []struct {
		name, script string
		want, reason string
	}{
		{"well", "exit 0", "", ""},
		{"sick", "echo first; echo >&2 'out of memory'; exit 3", "sh: exit status 3: out of memory", failAnswered},
		{"in silence", "exit 1", "sh: exit status 1", failAnswered},
		{"hangs, with a child", "echo asking; sleep 1000 & echo $! > " + child + "; wait", "sh: asking: no answer in time", failTimeout},
		{"leaves a child that holds its output", "sleep 1000 & echo $! > " + child + "; exit 0", "", ""},
		{"much output", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo enough; exit 1", "sh: exit status 1: enough", failAnswered},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_ = os.Remove(child)
			limit := 10 * time.Second
			if c.reason == failTimeout {
				limit = 500 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err := newCommandProbe(&program{argv: []string{"sh", "-c", c.script}, env: os.Environ()})(ctx)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want || reasonOf(err) != c.reason) {
				t.Errorf("%v, want %q (%s)", err, c.want, c.reason)
			}
			text, err := os.ReadFile(child)
			if err != nil {
				return
			}
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			for deadline := time.Now().Add(10 * time.Second); running(pid); {
				if time.Now().After(deadline) {
					t.Fatalf("its child %d lives on", pid)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		err := newCommandProbe(&program{argv: []string{filepath.Join(dir, "absent")}})(t.Context())
		if err == nil || reasonOf(err) != failBroken || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%v", err)
		}
	})
}

// running says whether a process lives; who waits for an orphan is not our business.
func running(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

// A probe's command has the placeholders, and the engine's environment.
func TestCommandProbeOfASlot(t *testing.T) {
	c := config.Default()
	c.RunDir = t.TempDir()
	p := config.DefaultPool("p")
	p.Command, p.Env = []string{"engine", "{socket}"}, map[string]string{"OWN": "for {name}"}
	s := newSlot(c, &p, 2)
	s.environ = func() []string { return []string{"PATH=" + os.Getenv("PATH"), "STOKER_ADDRESS=another's"} }
	script := `test "$1" = "$STOKER_SOCKET" && test "$2" = p-2 && test "$3" = "unix:$1" && test "$STOKER_ADDRESS" = "$3" && test "$OWN" = "for p-2"`
	if err := s.commandProbe([]string{"sh", "-c", script, "sh", "{socket}", "{name}", "{address}"}, "unix:"+s.socket)(t.Context()); err != nil {
		t.Errorf("a worker's: %v", err)
	}
	p.Command = []string{"engine", "{port}"}
	s = newSlot(c, &p, 2)
	if err := s.commandProbe([]string{"test", "{port}/{address}", "=", "4711/127.0.0.1:4711"}, "127.0.0.1:4711")(t.Context()); err != nil {
		t.Errorf("one that has no port reserved: %v", err)
	}
	server := newServerChecks(&config.Pool{Health: config.Health{
		Kind: kindCommand, Command: []string{"sh", "-c", `test "$1" = "$STOKER_ADDRESS" && test "$2" = far`, "sh", "{address}", "{name}"}, Timeout: config.Duration(time.Second),
	}}, config.Server{Address: "10.0.0.1:80", Name: "far"})
	if err := server.usual(t.Context()); err != nil {
		t.Errorf("a server's: %v", err)
	}
}

func TestCanary(t *testing.T) {
	var mu sync.Mutex
	var got map[string]any
	mux := http.NewServeMux()
	reply := func(path string, status int, body string) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			mu.Lock()
			got = map[string]any{"key": r.Header.Get("Authorization")}
			_ = json.Unmarshal(text, &got)
			mu.Unlock()
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	reply("/v1/completions", 200, `{"choices":[{"text":" 2"}]}`)
	reply("/v1/chat/completions", 200, `{"choices":[{"message":{"content":""}}]}`)
	reply("/completion", 200, `{"content":"2"}`)
	reply("/generate", 200, `{"text":"2"}`)
	reply("/tgi/generate", 200, `{"generated_text":"2"}`)
	reply("/none", 200, `{"choices":[]}`)
	reply("/nonsense", 200, `<html>`)
	reply("/dead", 500, `{"error":"EngineDeadError"}`)
	reply("/full", 503, "full")
	reply("/limited", 429, "")
	mux.HandleFunc("POST /silent", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	for _, c := range []struct {
		canary  config.Canary
		sent    string // a key of the request, and its value
		want    string
		reason  string
		noProof bool
	}{
		{config.Canary{}, "max_tokens=1", "", "", false},
		{config.Canary{Path: "/v1/completions", Model: "m"}, "model=m", "", "", false},
		{config.Canary{Path: "/v1/completions", APIKey: "sk-1"}, "key=Bearer sk-1", "", "", false},
		{config.Canary{Path: "/v1/chat/completions"}, "messages=[map[content:1 role:user]]", "", "", false},
		{config.Canary{Path: "/completion"}, "n_predict=1", "", "", false},
		{config.Canary{Path: "/generate"}, "sampling_params=map[max_new_tokens:1]", "", "", false},
		{config.Canary{Path: "/tgi/generate"}, "parameters=map[max_new_tokens:1]", "", "", false},
		{config.Canary{Path: "/completion", Body: `{"own":1}`}, "own=1", "", "", false},
		{config.Canary{Path: "/none"}, "", "answered 200 OK without a token", failAnswered, false},
		{config.Canary{Path: "/nonsense"}, "", "without a token: <html>", failAnswered, false},
		{config.Canary{Path: "/dead"}, "", "answered 500 Internal Server Error: ", failAnswered, false},
		{config.Canary{Path: "/full"}, "", "answered 503", failAnswered, true},
		{config.Canary{Path: "/limited"}, "", "answered 429", failAnswered, true},
		{config.Canary{Path: "/absent"}, "", "answered 404", failAnswered, true},
		{config.Canary{Path: "/silent"}, "", "no answer in time", failTimeout, false},
	} {
		limit := 10 * time.Second
		if c.reason == failTimeout {
			limit = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err := newCanary(c.canary, strings.TrimPrefix(s.URL, "http://"), manner{})(ctx)
		cancel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || reasonOf(err) != c.reason) || errors.Is(err, errNoProof) != c.noProof {
			t.Errorf("%+v: %v, want %q (%s, no proof %t)", c.canary, err, c.want, c.reason, c.noProof)
		}
		if key, value, _ := strings.Cut(c.sent, "="); key != "" {
			mu.Lock()
			if fmt.Sprint(got[key]) != value {
				t.Errorf("%+v: sent %v, want %s", c.canary, got, c.sent)
			}
			mu.Unlock()
		}
	}
}

func TestMetricsPage(t *testing.T) {
	p := newPage(config.Health{MetricsPath: "/metrics"}, "127.0.0.1:1", manner{})
	text := `# HELP vllm:generation_tokens_total Tokens.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a } \" b"} 1200.0
vllm:generation_tokens_total{engine="1",model_name="c"} 3e2 1700000000000
vllm:generation_tokens_created{engine="0"} 1.7e9
vllm:num_requests_running{engine="0"} 7
vllm:num_requests_waiting 2
vllm:num_requests_waiting{broken 5
llamacpp:n_decode_total NaN
vllm:prompt_tokens_total
`
	if made, busy := p.sums(text); made != 1500 || busy != 9 {
		t.Errorf("made %v, busy %v", made, busy)
	}
	p = newPage(config.Health{MetricsPath: "/metrics", ProgressMetrics: []string{"own_total"}, BusyMetrics: []string{"own"}}, "127.0.0.1:1", manner{})
	if made, busy := p.sums(text + "own_total 5\nown 1\n"); made != 5 || busy != 1 {
		t.Errorf("of its own names: made %v, busy %v", made, busy)
	}
}

func FuzzMetricsPage(f *testing.F) {
	f.Add("a{b=\"c\\\"}\"} 1 2\n# x\n{} 3")
	p := newPage(config.Health{MetricsPath: "/m", ProgressMetrics: []string{"a"}}, "127.0.0.1:1", manner{})
	f.Fuzz(func(t *testing.T, text string) {
		if made, busy := p.sums(text); made < 0 || busy < 0 {
			t.Errorf("made %v, busy %v", made, busy)
		}
	})
}

// A page whose counters grow is a sign of life, one that stands still or does
// not come is none.
func TestMetricsAreSigns(t *testing.T) {
	var mu sync.Mutex
	page, status := "", 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, page)
	}))
	defer s.Close()
	p, signs := newPage(config.Health{MetricsPath: "/metrics"}, strings.TrimPrefix(s.URL, "http://"), manner{}), new(signs)
	for i, c := range []struct {
		made, busy, status int
		signs              uint64
	}{
		{100, 3, 200, 0}, // the first look
		{100, 3, 200, 0},
		{101, 3, 200, 1},
		{500, 3, 500, 1}, // an error says nothing
		{102, 2, 200, 2},
		{5, 2, 200, 2}, // a new engine counts anew
		{6, 0, 200, 3},
	} {
		mu.Lock()
		page, status = fmt.Sprintf("vllm:generation_tokens_total %d\nvllm:num_requests_running %d\n", c.made, c.busy), c.status
		mu.Unlock()
		p.read(t.Context(), signs)
		if got := signs.count.Load(); got != c.signs || c.status == 200 && signs.busy.Load() != int64(c.busy) {
			t.Errorf("look %d: %d signs, busy %d; want %d, %d", i+1, got, signs.busy.Load(), c.signs, c.busy)
		}
	}
}

func TestIsStopped(t *testing.T) {
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	e := sleeper.Process.Pid
	if isStopped(e) {
		t.Error("it runs")
	}
	if err := syscall.Kill(e, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !isStopped(e); {
		if time.Now().After(deadline) {
			t.Fatal("it is stopped")
		}
		time.Sleep(time.Millisecond)
	}
	if isStopped(1 << 30) {
		t.Error("nobody is not stopped")
	}
}
