//go:build e2e

package e2e

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestWhoIsFullIsSpared: an engine whose own page says that requests wait in it
// gets no new ones, and gets them again when it has time; those that fill it come
// past stoker, so that nothing but the page can tell.
func TestWhoIsFullIsSpared(t *testing.T) {
	waits(t)
	m := start(t, "[[pools]]\nname = \"demo\"\nworkers = 2\nhealth.metrics_path = \"/metrics\"\nhealth.max_waiting = 1\nhealth.load_interval = \"50ms\"\ncommand = "+
		list(binary, "engine", "--socket", "{socket}", "--name", "{name}", "--load-time", "0s", "--decode-rate", "50", "--slots", "2")+"\n").allReady()
	full := m.workers()[0]
	of := `worker="` + full.Name + `"`
	m.eventually("both are known to be under", func() bool {
		return m.metric("stoker_engine_over_threshold") == 0 && strings.Count(m.statusTable(), "under (0 waiting, cache 0 %)") == 2
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var crowd sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", strings.TrimPrefix(full.Address, "unix:"))
	}}}
	defer client.CloseIdleConnections()
	for range 6 {
		crowd.Go(func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/completions", strings.NewReader(`{"prompt":"hello","max_tokens":100000,"ignore_eos":true,"stream":true}`))
			if err != nil {
				t.Error(err)
				return
			}
			if answer, err := client.Do(request); err == nil {
				<-ctx.Done()
				answer.Body.Close()
			}
		})
	}
	m.eventually("one is over", func() bool {
		return m.metric("stoker_engine_over_threshold", of) == 1 && strings.Contains(m.statusTable(), "over (4 waiting, cache 100 %)")
	})
	before := m.metric("stoker_requests_total", of)
	for range 6 {
		if status, err := completion(m, "", answerLimit); status != http.StatusOK || err != nil {
			t.Fatalf("%d, %v", status, err)
		}
	}
	if got := m.metric("stoker_requests_total", of); got != before {
		t.Errorf("%v requests were sent to who is full", got-before)
	}
	leave()
	crowd.Wait()
	m.eventually("it has time again", func() bool { return m.metric("stoker_engine_over_threshold", of) == 0 })
	for range 4 {
		if status, err := completion(m, "", answerLimit); status != http.StatusOK || err != nil {
			t.Fatalf("%d, %v", status, err)
		}
	}
	if got := m.metric("stoker_requests_total", of); got == before {
		t.Error("it has got nothing since")
	}
	m.stop()
}

// statusTable is what "stoker status" prints.
func (m *master) statusTable() string {
	m.t.Helper()
	text, code := m.command("status")
	if code != 0 {
		m.t.Fatalf("stoker status: %d, %s", code, text)
	}
	return text
}
