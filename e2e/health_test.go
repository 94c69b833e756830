//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// demo is a pool of the built-in engine, which obeys faults.
func demo(workers int, more string) string {
	return fmt.Sprintf("[[pools]]\nname = \"demo\"\nworkers = %d\nrestart.delay = \"100ms\"\ncommand = %s\n%s\n", workers,
		list(binary, "engine", "--socket", "{socket}", "--name", "{name}", "--load-time", "0s", "--faults", "--decode-rate", "100"), more)
}

// completion asks for one; fault is trouble that the engine is to make.
func completion(m *master, fault string, limit time.Duration) (status int, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: limit}
	request, err := http.NewRequest(http.MethodPost, m.url("/v1/completions"), strings.NewReader(`{"prompt":"hello","max_tokens":10,"ignore_eos":true}`))
	if err != nil {
		return 0, err
	}
	request.Header.Set("X-Fault", fault)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = readAll(response)
	return response.StatusCode, err
}

// replaced waits until the worker has another engine, and returns how long after began it was killed.
func (m *master) replaced(victim workerStatus, began time.Time, limit time.Duration) time.Duration {
	m.t.Helper()
	m.eventuallyWithin(limit, "the hung engine is gone", func() bool { return !alive(victim.PID) })
	took := time.Since(began)
	m.eventually("the worker is back", func() bool {
		w := m.worker(victim.Name)
		return w.State == "ready" && w.PID != victim.PID
	})
	if got := m.metric("stoker_workers_hung_total", `worker="`+victim.Name+`"`); got != 1 {
		m.t.Errorf("stoker_workers_hung_total is %v, want 1", got)
	}
	if got := m.metric("stoker_worker_restarts_total", `worker="`+victim.Name+`"`, `cause="hung"`); got != 1 {
		m.t.Errorf("%v restarts because it hung, want 1", got)
	}
	m.t.Logf("%s was killed %v after it had hung: %s", victim.Name, took.Round(10*time.Millisecond), m.explained("hung"))
	return took
}

// TestEventLoopBlocked: with the defaults a worker whose event loop is blocked
// for ever is killed within 15 s, and whoever comes 5 s after that has noticed nothing.
func TestEventLoopBlocked(t *testing.T) {
	t.Parallel()
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			waits(t)
			eventLoopBlocked(t, &s)
		})
	}
}

func eventLoopBlocked(t *testing.T, s *subject) {
	t.Helper()
	// What blocks one worker would block the next: it is not tried again here.
	m := start(t, s.pool(t, 4)+"on_death = \"fail\"\n").allReady()
	ended, late := newTally(), newTally()
	var over atomic.Bool
	var hung atomic.Int64 // when, 0: not yet
	load := crowd(8, func(client, turn int) bool {
		r := s.ask(m, client*100000+turn, false)
		what := "broken off"
		switch {
		case r.err == nil && r.status == 200 && s.exact(r.body, r.n, false):
			what = "right"
		case r.err == nil:
			what = fmt.Sprint(r.status)
		}
		ended.add(what, r.String())
		if at := hung.Load(); at != 0 && r.began.After(time.Unix(0, at).Add(5*time.Second)) {
			late.add(what, r.String())
			if took := time.Since(r.began); took > 5*time.Second {
				late.add("slow", took.String())
			}
		}
		time.Sleep(50 * time.Millisecond) // a client that thinks
		return !over.Load()
	})
	m.eventually("load", func() bool { return ended.count("right") > 50 })
	before := m.workers()
	killer, err := s.block(m)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	hung.Store(began.UnixNano())
	blocking := make(chan seen)
	go func() { blocking <- s.send(killer, seen{n: -1}) }()
	// Which one it was the log tells.
	var victim workerStatus
	m.eventually("one found hanging", func() bool {
		for _, w := range before {
			if strings.Contains(m.explained("worker hung"), w.Name) {
				victim = w
			}
		}
		return victim.Name != ""
	})
	if took := m.replaced(victim, began, patience); took > 15*time.Second {
		t.Errorf("killed after %v, want 15 s", took)
	}
	if r := <-blocking; r.err == nil && r.status == 200 {
		t.Errorf("what blocked it was answered: %v", r)
	}
	over.Store(true)
	load.Wait()
	if wrong := late.except("right"); wrong != "" || late.count("right") < 20 {
		t.Errorf("of those begun 5 s after the hang %d were right, and %s", late.count("right"), wrong)
	}
	// A quarter of eight clients was there when it happened.
	if wrong := ended.except("right", "502", "broken off"); wrong != "" || ended.count("502")+ended.count("broken off") > 8 {
		t.Errorf("besides %d right answers: %s", ended.count("right"), ended.except("right"))
	}
	m.stop()
}

// TestEngineStopped: an engine that got SIGSTOP still takes connections. With
// the defaults it is killed within 15 s, whatever the kind of probe.
func TestEngineStopped(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			waits(t)
			m := start(t, demo(2, "health.kind = \""+kind+"\"")).allReady()
			victim := m.workers()[1]
			if err := syscall.Kill(victim.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if took := m.replaced(victim, time.Now(), patience); took > 15*time.Second {
				t.Errorf("killed after %v, want 15 s", took)
			}
			m.stop()
		})
	}
}

// TestHealthyWithoutAToken: /health answers 200 and nothing is generated any
// more. The canary finds out; others serve meanwhile.
func TestHealthyWithoutAToken(t *testing.T) {
	waits(t)
	m := start(t, demo(2, `
stop.hung_signal = "ABRT"
[pools.health]
stall_timeout = "3s"
canary.path = "/v1/completions"
canary.timeout = "3s"
`)).allReady()
	client := make(chan error, 1)
	go func() {
		_, err := completion(m, "hang-all", patience)
		client <- err
	}()
	var victim workerStatus
	m.eventually("a request in flight", func() bool {
		workers := m.workers()
		at := slices.IndexFunc(workers, func(w workerStatus) bool { return w.InFlight == 1 })
		if at >= 0 {
			victim = workers[at]
		}
		return at >= 0
	})
	began := time.Now()
	m.eventually("silence shows", func() bool { return strings.Contains(output(t, "status", "--run-dir", m.runDir), "a canary was sent") })
	// From here on nobody else is sent there.
	for range 6 {
		if status, err := completion(m, "", 5*time.Second); err != nil || status != 200 {
			t.Errorf("beside the hung worker: %d %v", status, err)
		}
	}
	if took := m.replaced(victim, began, patience); took > 15*time.Second {
		t.Errorf("killed after %v, want 15 s", took)
	}
	if err := <-client; err == nil {
		t.Error("the request that hung got an answer")
	}
	m.eventually("a trace of the engine, as hung_signal = \"ABRT\" has it", func() bool { return strings.Contains(m.logText(), "SIGABRT: abort") })
	m.stop()
}

// TestSilentIsNotHung: a request without a byte for much longer than
// stall_timeout, on an engine that answers its canaries.
func TestSilentIsNotHung(t *testing.T) {
	waits(t)
	m := start(t, demo(1, `
[pools.health]
stall_timeout = "300ms"
interval = "100ms"
canary.path = "/v1/chat/completions"
canary.timeout = "2s"
`)).allReady()
	before := m.worker("demo-0")
	if _, err := completion(m, "hang", 5*time.Second); err == nil {
		t.Fatal("the request did not hang")
	}
	if w := m.worker("demo-0"); w.PID != before.PID || w.State != "ready" {
		t.Errorf("%+v, though only one of its requests was slow", w)
	}
	m.stop()
}

// TestTokensAreSignsOfLife: an engine that takes one request at a time is at a
// long one, and so neither a byte nor a canary comes; but its own metrics page
// counts tokens. Without that page nobody could tell it from a hung one.
func TestTokensAreSignsOfLife(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, page string
		hung       float64
	}{{"counted", "metrics_path = \"/metrics\"\n", 0}, {"not counted", "", 1}} {
		t.Run(c.name, func(t *testing.T) {
			waits(t)
			command := list(binary, "engine", "--socket", "{socket}", "--load-time", "0s", "--slots", "1", "--decode-rate", "10")
			m := start(t, "[[pools]]\nname = \"one\"\non_death = \"fail\"\ncommand = "+command+`
[pools.health]
interval = "200ms"
stall_timeout = "600ms"
canary.path = "/v1/completions"
canary.timeout = "1s"
`+c.page).allReady()
			request := `{"prompt":"hello","max_tokens":50,"ignore_eos":true}` // 5 s
			response, err := http.Post(m.url("/v1/completions"), "application/json", strings.NewReader(request))
			if err != nil {
				t.Fatal(err)
			}
			_, err = readAll(response)
			if fine := err == nil; fine != (c.hung == 0) {
				t.Errorf("the answer: %v", err)
			}
			if got := m.metric("stoker_workers_hung_total"); got != c.hung {
				t.Errorf("found hanging %v times, want %v: %s", got, c.hung, m.explained("hung"))
			}
			m.eventually("ready", func() bool { return m.workers()[0].State == "ready" })
			m.stop()
		})
	}
}

// TestSaturatedIsNotHung: a queue inside, and a /health behind it that never
// answers in time, for much longer than it takes to find a hung worker. The
// time is scaled: STOKER_E2E_SATURATED=60s with the defaults is the whole of it.
func TestSaturatedIsNotHung(t *testing.T) {
	t.Parallel()
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			sleeps(t)
			saturatedIsNotHung(t, &s)
		})
	}
}

func saturatedIsNotHung(t *testing.T, s *subject) {
	t.Helper()
	lasts, health := 8*time.Second, "health.interval = \"300ms\"\nhealth.timeout = \"300ms\"\n"
	if text := os.Getenv("STOKER_E2E_SATURATED"); text != "" {
		lasts, _ = time.ParseDuration(text)
		health = ""
	}
	m := start(t, s.slow(t)+health).allReady()
	before := m.workers()[0]
	ended, until := newTally(), time.Now().Add(lasts)
	crowd(40, func(client, turn int) bool {
		n := client*10000 + turn
		request, err := s.queued(m, n)
		if err != nil {
			ended.add("not asked", err.Error())
			return false
		}
		if r := s.send(request, seen{n: n, began: time.Now()}); r.err == nil && r.status == 200 && s.exact(r.body, n, false) {
			ended.add("right", "")
		} else {
			ended.add("wrong", r.String())
		}
		return time.Now().Before(until)
	}).Wait()
	if wrong := ended.except("right"); wrong != "" {
		t.Error(wrong)
	}
	failed := m.metric("stoker_probe_failures_total", `worker="`+before.Name+`"`, `reason="timeout"`)
	if failed < 3 {
		t.Errorf("%v probes failed: it was not saturated", failed)
	}
	if w := m.worker(before.Name); w.PID != before.PID || w.Restarts != 0 {
		t.Errorf("restarted, though only busy: %+v; %s", w, m.explained(before.Name))
	}
	t.Logf("%d answers in %v, %v probes without an answer in time", ended.count("right"), lasts, failed)
	m.stop()
}

// TestKindsOfProbes: each lets an engine in, and takes it out when it is not well.
func TestKindsOfProbes(t *testing.T) {
	waits(t)
	file := filepath.Join(shortDir(t), "sick")
	for _, c := range []struct{ name, health, explain string }{
		{"http", "path = \"/health\"", ""},
		{"tcp", "kind = \"tcp\"", ""},
		{"canary", "kind = \"canary\"\ncanary.timeout = \"1s\"", ""},
		{
			"command", "kind = \"command\"\ncommand = " + list("sh", "-c", "test -S {socket} && test unix:{socket} = {address} || exit 7; test ! -e "+file+" || { echo first; echo out of order; exit 3; }"),
			"exit status 3: out of order",
		},
		{
			"command that hangs", "kind = \"command\"\ntimeout = \"400ms\"\ncommand = " + list("sh", "-c", "test -S {socket} || exit 1; test ! -e "+file+" || { echo still here; sleep 1000; }"),
			"still here: no answer in time",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, demo(1, "stop.grace = \"2s\"\n[pools.health]\ninterval = \"100ms\"\nfailures = 2\n"+c.health)).allReady()
			if status, err := completion(m, "", patience); err != nil || status != 200 {
				t.Errorf("%d %v", status, err)
			}
			if c.explain != "" {
				if err := os.WriteFile(file, nil, 0o644); err != nil {
					t.Fatal(err)
				}
				m.eventually("taken out", func() bool { return m.explained(c.explain) != "" })
				t.Log(m.explained(c.explain))
				_ = os.Remove(file)
				m.eventually("let in", func() bool { return m.workers()[0].State == "ready" })
			}
			m.stop()
		})
	}
}

// readinessDocument is what readiness_path and /readyz promise.
type readinessDocument struct {
	Status           string `json:"status"`
	AcceptingTraffic bool   `json:"accepting_traffic"`
	Ready            int    `json:"ready"`
	Workers          int    `json:"workers"`
}

// TestReadiness: the traffic listeners say how the whole is, whatever the state
// of the queues, to the last moment, and no pool sees it.
func TestReadiness(t *testing.T) {
	sleeps(t)
	m := start(t, "readiness_path = \"/stoker/health\"\nshutdown.delay = \"2s\"\n"+fakePool(2)+"max_concurrency = 1\nqueue.length = 1\nhealth.interval = \"100ms\"\n")
	c := caller{address: m.address, keepAlive: true}
	defer c.close()
	ask := func() (code int, d readinessDocument) {
		t.Helper()
		a := c.get("/stoker/health")
		if a.outcome != complete || a.header.Get("Content-Type") != "application/json" {
			t.Fatal(a)
		}
		if err := json.Unmarshal(a.body, &d); err != nil {
			t.Fatalf("%v in %s", err, a.body)
		}
		return a.status, d
	}
	want := func(when string, code int, d readinessDocument) {
		t.Helper()
		gotCode, got := ask()
		if gotCode != code || got != d {
			t.Errorf("%s: %d %+v, want %d %+v", when, gotCode, got, code, d)
		}
		adminCode, body, err := m.admin("/readyz")
		var same readinessDocument
		if err != nil || adminCode != code || json.Unmarshal([]byte(body), &same) != nil || same != d {
			t.Errorf("%s: /readyz says %d %s %v", when, adminCode, body, err)
		}
	}
	m.allReady()
	want("all ready", 200, readinessDocument{"healthy", true, 2, 2})

	for id := range 3 { // two at work, one in the queue, which is full
		go (&caller{address: m.address}).get(fmt.Sprintf("/hold?id=%d", id))
	}
	m.eventually("a full queue", func() bool { return m.metric("stoker_queue_length") == 1 })
	if a := (&caller{address: m.address}).get("/work"); a.status != 429 {
		t.Errorf("the queue is not full: %v", a)
	}
	want("the queue is full", 200, readinessDocument{"healthy", true, 2, 2})
	counted := m.metric("stoker_requests_total")

	for _, method := range []string{http.MethodHead, http.MethodPost} {
		request, _ := http.NewRequest(method, m.url("/stoker/health?x=1"), http.NoBody)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		switch {
		case method == http.MethodHead && response.StatusCode == http.StatusOK && response.ContentLength > 20:
		case method == http.MethodPost && response.StatusCode == http.StatusMethodNotAllowed && response.Header.Get("Allow") == "GET, HEAD":
		default:
			t.Errorf("%s: %+v", method, response)
		}
	}
	if status := overHTTP2(t, m.url("/stoker/health")); status != 200 {
		t.Errorf("over HTTP/2: %d", status)
	}
	if got := m.metric("stoker_requests_total"); got != counted {
		t.Errorf("asking counted as %v requests", got-counted)
	}
	for _, line := range m.logLines("path") {
		if line["path"] == "/stoker/health" {
			t.Errorf("asking was logged: %v", line)
		}
	}

	// One is missing, then all.
	output(t, "stop", "--run-dir", m.runDir, "p-1")
	want("an operator has stopped one", 200, readinessDocument{"healthy", true, 1, 1})
	output(t, "resume", "--run-dir", m.runDir, "p-1")
	want("and let it run", 200, readinessDocument{"healthy", true, 2, 2})
	degraded := false
	_ = syscall.Kill(m.worker("p-1").PID, syscall.SIGKILL)
	m.eventually("degraded, and healthy again", func() bool {
		code, d := ask()
		if code != 200 {
			t.Errorf("one of two died: %d %+v", code, d)
		}
		degraded = degraded || d == readinessDocument{"degraded", true, 1, 2}
		return degraded && d.Status == "healthy"
	})
	output(t, "stop", "--run-dir", m.runDir, "p")
	want("all stopped", 503, readinessDocument{"unavailable", false, 0, 0})
	output(t, "resume", "--run-dir", m.runDir, "p")

	m.signal(syscall.SIGTERM)
	m.eventually("shutting down", func() bool {
		code, d := ask()
		return code == 503 && d.Status == "shutting_down" && !d.AcceptingTraffic
	})
	m.exit(patience)
	m.nothingLeft()
}

// overHTTP2 asks with prior knowledge.
func overHTTP2(t *testing.T, url string) int {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 {
		t.Errorf("answered by %s", response.Proto)
	}
	return response.StatusCode
}

// TestReadinessThroughUpgrade: whoever asks on a connection that is kept hears
// of no end, whichever generation answers.
func TestReadinessThroughUpgrade(t *testing.T) {
	waits(t)
	u := startUpgradable(t, "readiness_path = \"/ready\"\n")
	var over atomic.Bool
	seen := newTally()
	asking := crowd(2, func(client, _ int) bool {
		c := caller{address: u.address, keepAlive: client == 0}
		defer c.close()
		for !over.Load() {
			a := c.get("/ready")
			seen.add(fmt.Sprintf("%s %d %s", a.outcome, a.status, strings.TrimSpace(string(a.body))), fmt.Sprint(a.err))
			time.Sleep(time.Millisecond)
		}
		return false
	})
	u.installVersion(1)
	u.mustUpgrade()
	u.mustUpgrade()
	over.Store(true)
	asking.Wait()
	const fine = `complete 200 {"status":"healthy","accepting_traffic":true,"ready":2,"workers":2}`
	if wrong := seen.except(fine); wrong != "" {
		t.Error(wrong)
	}
	t.Logf("asked %d times", seen.count(fine))
	u.endAll()
}
