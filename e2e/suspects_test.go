//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestTheOnlyEngineDiesBusy: one engine, killed with thirty requests on it. They
// are tried again one by one, and whoever comes meanwhile is served beside them:
// once nobody else was until the last of them had been.
func TestTheOnlyEngineDiesBusy(t *testing.T) {
	t.Parallel()
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
		time.Sleep(100 * time.Millisecond)
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
