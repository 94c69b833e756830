//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chatRequest is one whose answer can be computed.
type chatRequest struct {
	prompt  string
	stream  bool
	ms      int    // that it takes, about
	outputs string // structured_outputs, as JSON
	poison  bool   // whoever gets it dies
}

// chatForm is how an engine is asked it, and answers.
type chatForm interface {
	body(r chatRequest) string
	right(r chatRequest, answer string) bool
}

// fastapiChat is the application's.
type fastapiChat struct{}

func (fastapiChat) body(r chatRequest) string {
	prompt := r.prompt
	if r.poison {
		prompt = "poison: " + prompt
	}
	words, _ := json.Marshal(prompt)
	text := fmt.Sprintf(`{"messages":[{"role":"user","content":%s}],"ms":%d,"stream":%v`, words, r.ms, r.stream)
	if r.outputs != "" {
		text += `,"structured_outputs":` + r.outputs
	}
	return text + "}"
}

func (fastapiChat) right(r chatRequest, answer string) bool {
	if r.stream {
		return answer == strings.Repeat("data: you said: "+r.prompt+" \n\n", 10)+"data: [DONE]\n\n"
	}
	return answer == strings.Repeat("you said: "+r.prompt+" ", 10)
}

// demoChat is the built-in engine's, of which another inside the test says what is right.
type demoChat struct{}

func (demoChat) body(r chatRequest) string {
	prompt, _ := json.Marshal(r.prompt)
	text := fmt.Sprintf(`{"messages":[{"role":"user","content":%s}],"seed":1,"ignore_eos":true,"max_tokens":%d,"stream":%v`, prompt, max(1, r.ms/10), r.stream)
	if r.outputs != "" {
		text += `,"structured_outputs":` + r.outputs
	}
	if r.poison {
		text += `,"fault":"kill,after=2"`
	}
	return text + "}"
}

func (c demoChat) right(r chatRequest, answer string) bool {
	want := httptest.NewRecorder()
	oracle.ServeHTTP(want, httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/v1/chat/completions", strings.NewReader(c.body(r))))
	return bytes.Equal(masked([]byte(answer)), masked(want.Body.Bytes()))
}

// send names the outcome: "right", "WRONG", a status, or how it broke.
func (r chatRequest) send(client *http.Client, m *master, form chatForm) (what, text string) {
	response, err := client.Post(m.url("/v1/chat/completions"), "application/json", strings.NewReader(form.body(r)))
	if err != nil {
		return "no answer", err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return "broken off", err.Error()
	case response.StatusCode != http.StatusOK:
		return fmt.Sprint(response.StatusCode), string(body)
	case !form.right(r, string(body)):
		return "WRONG", string(body)
	}
	return "right", ""
}

// innocents is a steady load of requests with prompts of their own, but for
// those that everybody asks.
type innocents struct {
	seen *tally
	stop func()
}

func (m *master) innocents(form chatForm, perSecond int) *innocents {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}
	load, over := &innocents{seen: newTally()}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		every := time.NewTicker(time.Second / time.Duration(perSecond))
		defer every.Stop()
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			case <-every.C:
			}
			r := chatRequest{prompt: fmt.Sprintf("innocent %d", n), ms: 20 + n*37%200, stream: n%3 == 0}
			switch n % 10 {
			case 3, 7:
				r = chatRequest{prompt: "are you there?", ms: 50}
			case 5:
				r.outputs = fmt.Sprintf(`{"json":{"type":"object","n":%d}}`, n%20)
			}
			all.Go(func() { load.seen.add(r.send(client, m, form)) })
		}
	})
	load.stop = func() {
		close(over)
		all.Wait()
		client.CloseIdleConnections()
	}
	return load
}

func (l *innocents) total() int {
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	n := 0
	for _, count := range l.seen.counts {
		n += count
	}
	return n
}

func (m *master) restarts() (n int) {
	for _, w := range m.workers() {
		n += w.Restarts
	}
	return n
}

// TestPoisonKillsTwoWorkersAtMost: one request kills whatever gets it, and its
// client sends it five times. nginx, told to try the next upstream, lets the
// first of the five kill all four workers.
func TestPoisonKillsTwoWorkersAtMost(t *testing.T) {
	t.Parallel()
	for _, s := range subjects() {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stream %v", s.name, stream), func(t *testing.T) {
				waits(t)
				poisonKillsTwoWorkersAtMost(t, &s, stream)
			})
		}
	}
}

func poisonKillsTwoWorkersAtMost(t *testing.T, s *subject, stream bool) {
	t.Helper()
	m := start(t, s.pool(t, 4)).allReady()
	load := m.innocents(s.chat, 40)
	m.eventually("some load", func() bool { return load.total() > 80 })
	poison := chatRequest{prompt: "please", ms: 30, stream: stream, poison: true}
	var statuses []string
	for range 5 {
		what, text := poison.send(http.DefaultClient, m, s.chat)
		statuses = append(statuses, what)
		t.Log(what, text)
	}
	m.eventually("400 innocents", func() bool { return load.total() >= 400 })
	m.eventually("all workers back", func() bool {
		return !slices.ContainsFunc(m.workers(), func(w workerStatus) bool { return w.State != "ready" })
	})
	load.stop()
	if n := m.restarts(); n > 2 {
		t.Errorf("%d workers died of one request, want 2 at most", n)
	}
	if last := statuses[2:]; !slices.Equal(last, []string{"422", "422", "422"}) {
		t.Errorf("the poison was answered %v: want 422 once it has killed two", statuses)
	}
	if wrong := load.seen.except("right", "502", "broken off"); wrong != "" {
		t.Errorf("innocents: %s", wrong)
	}
	if failed := load.total() - load.seen.count("right"); failed > 10 {
		t.Errorf("%d of %d innocents failed: %s", failed, load.total(), load.seen.except("right"))
	} else {
		t.Logf("%d of %d innocents failed: %s", failed, load.total(), load.seen.except("right"))
	}
	m.quarantinedOnly("request")
	m.stop()
}

// quarantinedOnly fails unless there is exactly one conviction, of that kind,
// with two crashes, and the log and the command say so.
func (m *master) quarantinedOnly(kind string) {
	m.t.Helper()
	type conviction struct {
		ID     string
		Kind   string
		Deaths []struct{ Crash string }
	}
	var doc struct{ Convictions []conviction }
	if err := json.Unmarshal([]byte(m.mustCommand("quarantine", "--json")), &doc); err != nil {
		m.t.Fatal(err)
	}
	at := slices.IndexFunc(doc.Convictions, func(c conviction) bool { return c.Kind == kind })
	if at < 0 || kind == "request" && len(doc.Convictions) != 1 {
		m.t.Fatalf("quarantined: %+v, want one %s", doc.Convictions, kind)
	}
	found := doc.Convictions[at]
	if len(found.Deaths) != 2 || found.Deaths[0].Crash == "" || found.Deaths[1].Crash == "" {
		m.t.Errorf("quarantined: %+v, want two deaths with their reports", found)
	}
	if line := m.explained(`stoker quarantine lift .*` + found.ID); line == "" {
		m.t.Errorf("no line of the log says how to lift %s", found.ID)
	}
	if table := m.mustCommand("quarantine", "list"); !strings.Contains(table, found.ID) {
		m.t.Errorf("stoker quarantine does not show %s:\n%s", found.ID, table)
	}
}

// TestSchemaPoison: prompts vary, and what kills is a structured output that has
// none of the valid keys, at which the engine exits with code 0. It is refused by
// its schema once two have died, also by the next master; lifted, it passes.
func TestSchemaPoison(t *testing.T) {
	t.Parallel()
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			waits(t)
			schemaPoison(t, &s)
		})
	}
}

func schemaPoison(t *testing.T, s *subject) {
	t.Helper()
	m := start(t, s.pool(t, 4)).allReady()
	load := m.innocents(s.chat, 40)
	m.eventually("some load", func() bool { return load.total() > 80 })
	seed := func(n int) chatRequest {
		return chatRequest{prompt: fmt.Sprintf("tell me %d", n), ms: 20, outputs: fmt.Sprintf(`{ "whitespace_pattern" :%*s}`, n%3+4, "null")}
	}
	for n := range 8 {
		what, text := seed(n).send(http.DefaultClient, m, s.chat)
		if n >= 2 && what != "422" {
			t.Errorf("seed %d: %s %s, want 422", n, what, text)
		}
	}
	m.eventually("the client is told which crash", func() bool { // whose report is written beside what goes on
		what, text := seed(7).send(http.DefaultClient, m, s.chat)
		return what == "422" && strings.Contains(text, `"poison_request"`) && strings.Contains(text, "crash ")
	})
	m.eventually("innocents after it", func() bool { return load.total() >= 250 })
	load.stop()
	if n := m.restarts(); n > 2 {
		t.Errorf("%d workers died, want 2 at most", n)
	}
	if wrong := load.seen.except("right", "502", "broken off"); wrong != "" {
		t.Errorf("innocents: %s", wrong)
	}
	if failed := load.total() - load.seen.count("right"); failed > 10 {
		t.Errorf("%d of %d innocents failed: %s", failed, load.total(), load.seen.except("right"))
	}
	valid := chatRequest{prompt: "tell me", outputs: `{"regex":"[0-9]+"}`}
	if what, text := valid.send(http.DefaultClient, m, s.chat); what != "right" {
		t.Errorf("a valid schema: %s %s", what, text)
	}
	m.quarantinedOnly("schema")

	// The master crashes, and another knows; so does the one after an upgrade.
	_ = m.cmd.Process.Kill()
	<-m.ended
	m = m.again().allReady()
	if what, text := seed(8).send(http.DefaultClient, m, s.chat); what != "422" {
		t.Errorf("after a crash of the master: %s %s, want 422", what, text)
	}
	m.mustCommand("upgrade")
	if what, text := seed(9).send(http.DefaultClient, m, s.chat); what != "422" {
		t.Errorf("after an upgrade: %s %s, want 422", what, text)
	}
	lifted := m.mustCommand("quarantine", "lift", m.quarantinedID("schema"))
	if !strings.Contains(lifted, "lifted") {
		t.Errorf("lift: %s", lifted)
	}
}

// quarantinedID is the conviction of a kind.
func (m *master) quarantinedID(kind string) string {
	m.t.Helper()
	for line := range strings.Lines(m.mustCommand("quarantine", "list")) {
		if words := strings.Fields(line); len(words) > 1 && words[1] == kind {
			return words[0]
		}
	}
	m.t.Fatalf("no %s is quarantined", kind)
	return ""
}

// TestKilledWorkerLosesNothingUnanswered: a worker is killed, or exits with code
// 0, at 40 requests a second. Only answers that had begun break off; whoever had
// none is served, and nobody is convicted.
func TestKilledWorkerLosesNothingUnanswered(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill", "exit 0"} {
		t.Run(how, func(t *testing.T) {
			waits(t)
			m := start(t, fastapi(t, 4)).allReady()
			load := m.innocents(fastapiChat{}, 40)
			for round := range 3 {
				before := load.total()
				m.eventually("load", func() bool { return load.total() > before+60 })
				victim := m.workers()[round]
				if how == "kill" {
					if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				} else {
					m.askDirectly(victim, "/exit")
				}
				m.eventually("the worker back", func() bool {
					w := m.worker(victim.Name)
					return w.State == "ready" && w.PID != victim.PID
				})
			}
			load.stop()
			if wrong := load.seen.except("right", "broken off"); wrong != "" {
				t.Errorf("innocents: %s", wrong)
			}
			t.Logf("%d requests, %s", load.total(), load.seen.except("right"))
			if n := load.seen.count("broken off"); n > 30 {
				t.Errorf("%d answers broke off: more than had begun on three workers", n)
			}
			if n := m.metric("stoker_request_retries_total", `reason="worker_died"`); n == 0 {
				t.Error("nobody was tried again")
			}
			if list := m.mustCommand("quarantine"); !strings.Contains(list, "nothing is quarantined") {
				t.Errorf("innocents were convicted:\n%s", list)
			}
			m.stop()
		})
	}
}

// askDirectly sends a worker a request past stoker.
func (m *master) askDirectly(w workerStatus, path string) {
	m.t.Helper()
	socket := strings.TrimPrefix(w.Address, "unix:")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	if response, err := client.Get("http://engine" + path); err == nil {
		response.Body.Close()
	}
}

// TestPoisonOnTheBuiltInEngine: by what an engine dies of once the answer has
// begun, and by a schema with varying prompts, sent at once by several clients.
// Streams that others have on the workers are all that breaks.
func TestPoisonOnTheBuiltInEngine(t *testing.T) {
	waits(t)
	m := start(t, modelPool(4)).allReady()
	send := func(body string) (status int, whole bool, text string) {
		response, err := http.Post(m.url("/v1/chat/completions"), "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		read, err := io.ReadAll(response.Body)
		return response.StatusCode, err == nil, string(read)
	}
	// After three tokens, when the answer has begun, or nearly so on a busy machine:
	// who tries it again is its client, or stoker.
	for n := range 4 {
		status, whole, text := send(askFor(1, 20, fmt.Sprintf(`,%*s"fault":"abort,after=3"`, n, "")))
		if refused := status == 422 && whole; n >= 2 && !refused || status == 200 && whole {
			t.Errorf("attempt %d: %d, whole %v: %s", n, status, whole, text)
		}
	}
	m.eventually("two workers back", func() bool {
		return m.restarts() == 2 && !slices.ContainsFunc(m.workers(), func(w workerStatus) bool { return w.State != "ready" })
	})

	// One after the other from each of four clients, which begin together: the
	// first die at once, at most one on each worker, before anybody can know.
	var all sync.WaitGroup
	seen := newTally()
	for client := range 4 {
		all.Go(func() {
			for try := range 4 {
				status, _, text := send(askFor(10*client+try, 5, `,"structured_outputs":{"none":true}`))
				seen.add(fmt.Sprint(status), text)
			}
		})
	}
	all.Wait()
	if seen.count("200") > 0 || seen.count("422") < 8 {
		t.Errorf("the schema was answered: %s", seen.except())
	}
	if n := m.restarts(); n > 2+6 {
		t.Errorf("%d workers died of four clients' poison", n-2)
	}
	m.eventually("a worker to serve", func() bool {
		status, whole, text := send(askFor(99, 5, `,"structured_outputs":{"regex":"a"}`))
		return status == 200 && whole && strings.Contains(text, "[DONE]")
	})
	for _, kind := range []string{"request", "schema"} {
		if m.quarantinedID(kind) == "" {
			t.Errorf("no %s is quarantined", kind)
		}
	}
	m.stop()
}
