//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestTheOnlyEngineDiesBusy: one engine, killed with thirty requests on it. They
// are tried again one by one, and whoever comes meanwhile is served beside them:
// once nobody else was until the last of them had been.
func TestTheOnlyEngineDiesBusy(t *testing.T) {
	works(t)
	const busy, later = 30, 40
	m := start(t, strings.Replace(demoPool(t, 1), "workers = 1", "workers = 1\nqueue.timeout = \"8s\"", 1)).allReady()
	var clients sync.WaitGroup
	var mu sync.Mutex
	on, after := newTally(), newTally()
	longest := time.Duration(0)
	ask := func(seen *tally, n int) {
		s := subjects()[1]
		r := s.ask(m, n, false)
		mu.Lock()
		defer mu.Unlock()
		if r.err == nil && r.status == 200 && s.exact(r.body, n, false) {
			seen.add("right", "")
		} else {
			seen.add(fmt.Sprint(r.status), r.String())
		}
		if seen == after {
			longest = max(longest, time.Since(r.began))
		}
	}
	for n := range busy {
		clients.Go(func() {
			request := fmt.Sprintf(`{"prompt":"%d","seed":1,"ignore_eos":true,"max_tokens":100,"stream":false}`, n)
			response, err := http.Post(m.url("/v1/completions"), "application/json", strings.NewReader(request))
			if err != nil {
				on.add("no answer", err.Error())
				return
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil {
				on.add("broken off", err.Error())
				return
			}
			on.add(fmt.Sprint(response.StatusCode), string(text))
		})
	}
	m.eventually("all on the engine", func() bool { return m.metric("stoker_requests_in_flight") == busy })
	victim := m.workers()[0]
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.eventually("the death known", func() bool { return m.worker(victim.Name).PID != victim.PID })
	for n := range later {
		clients.Go(func() { ask(after, busy+n) })
		time.Sleep(100 * time.Millisecond) // they come one by one, as the engine loads
	}
	clients.Wait()
	if wrong := after.except("right"); wrong != "" {
		t.Errorf("of those who came later: %s", wrong)
	}
	// A second each, one at a time, for as long as they may wait.
	if wrong := on.except("200", "502"); wrong != "" || on.count("200") < 3 {
		t.Errorf("of those on the engine %d were served, and %s", on.count("200"), wrong)
	}
	t.Logf("of %d on the engine %d were served, of %d later all, after %v at most", busy, on.count("200"), later, longest)
	m.stop()
}

// TestStreamsOfOneDeathGoOnTogether: one engine is killed with streams on it, of
// three seconds each. They go on beside each other: one after the other some would
// wait for longer than they may.
func TestStreamsOfOneDeathGoOnTogether(t *testing.T) {
	works(t)
	const streams = 25
	m := start(t, demoPool(t, 1)+"migrate = \"replay\"\n").allReady()
	var begun atomic.Int32
	all := func(user string) (texts [streams]string) {
		var clients sync.WaitGroup
		for n := range streams {
			clients.Go(func() {
				text, err := completionOf(m, n, user, func() { begun.Add(1) })
				if err != nil {
					t.Errorf("stream %d: %v", n, err)
				}
				texts[n] = text
			})
		}
		clients.Wait()
		return texts
	}
	want := all("first")
	victim, began := m.workers()[0], time.Now()
	var killed sync.WaitGroup
	killed.Go(func() {
		m.eventually("all in the middle", func() bool { return begun.Load() == 2*streams })
		_ = syscall.Kill(victim.PID, syscall.SIGKILL)
	})
	// Not the very same requests: that those are answered well is known.
	if got := all("second"); got != want {
		t.Error("not what it is undisturbed")
	}
	killed.Wait()
	t.Logf("all have ended after %v", time.Since(began))
	if n := m.metric("stoker_streams_migrated_total", `mode="replay"`, `reason="died"`); n != streams {
		t.Errorf("%v of %d streams were moved", n, streams)
	}
	if list := m.mustCommand("quarantine"); !strings.Contains(list, "nothing is quarantined") {
		t.Errorf("innocents were convicted:\n%s", list)
	}
	m.stop()
}

// completionOf asks the built-in engine for a stream, and returns what it said.
func completionOf(m *master, n int, user string, begun func()) (text string, err error) {
	body := fmt.Sprintf(`{"prompt":"%d","temperature":0,"ignore_eos":true,"max_tokens":300,"stream":true,"user":%q}`, n, user)
	response, err := http.Post(m.url("/v1/completions"), "application/json", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	last := ""
	for lines.Scan() {
		var event struct{ Choices []struct{ Text string } }
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if last == "" {
			begun()
		}
		last = data
		if json.Unmarshal([]byte(data), &event) == nil && len(event.Choices) > 0 {
			text += event.Choices[0].Text
		}
	}
	if err := lines.Err(); err != nil {
		return text, err
	}
	if last != "[DONE]" {
		return text, fmt.Errorf("answered %d, ends with %q", response.StatusCode, last)
	}
	return text, nil
}
