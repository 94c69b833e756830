//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStalledWorkerGetsNothingNew: an engine hangs in the middle of a stream, and goes
// on to say that it is well. The stream goes on elsewhere; from then on nobody else is
// sent there, long before it can be told that it hangs, and then it is killed.
func TestStalledWorkerGetsNothingNew(t *testing.T) {
	waits(t)
	m := start(t, demoPool(t, 2)+`
migrate = "replay"
token_stall_timeout = "500ms"
[pools.health]
stall_timeout = "8s"
canary.path = "/v1/completions"
canary.timeout = "2s"
`).allReady()
	response, err := http.Post(m.url("/v1/chat/completions"), "application/json",
		strings.NewReader(`{"messages":[{"role":"user","content":"x"}],"temperature":0,"ignore_eos":true,"max_tokens":200,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, 4<<10)); err != nil {
		t.Fatal(err)
	}
	workers := m.workers()
	victim := workers[slices.IndexFunc(workers, func(w workerStatus) bool { return w.InFlight == 1 })]
	began := time.Now()
	hangAll(t, victim)
	rest, err := io.ReadAll(response.Body)
	if moved := m.metric("stoker_streams_migrated_total", `reason="stalled"`); err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") || moved != 1 {
		t.Fatalf("the stream: %v, moved %v times", err, moved)
	}
	for range 6 {
		if status, err := completion(m, "", 5*time.Second); err != nil || status != 200 {
			t.Errorf("beside the hung worker: %d %v", status, err)
		}
	}
	m.replaced(victim, began, time.Minute)
	m.stop()
}

// hangAll has an engine hang by a request of our own, that is given up then.
func hangAll(t *testing.T, w workerStatus) {
	t.Helper()
	client := &http.Client{Transport: unixTransport(w.Address), Timeout: time.Second}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://engine/v1/completions", strings.NewReader(`{"prompt":"x","max_tokens":1}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Fault", "hang-all")
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
		t.Fatal("the engine does not hang")
	}
}
