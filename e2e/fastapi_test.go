//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fastapi is the configuration of a pool of FastAPI applications under
// uvicorn on unix sockets.
func fastapi(t *testing.T, workers int) string {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
trusted_proxies = ["127.0.0.0/8"]
[[pools]]
name = "app"
workers = %d
dir = %q
command = %s
restart.delay = "100ms"
`, workers, dir, list(python(t), "-m", "uvicorn", "app:app", "--uds", "{socket}", "--no-access-log", "--log-level", "warning"))
}

// list is a TOML array of strings.
func list(words ...string) string {
	text, _ := json.Marshal(words)
	return string(text)
}

// TestFastAPIEveryByte sends 2000 unary and 200 streamed requests, uploads and
// downloads, and compares every byte with what must come.
func TestFastAPIEveryByte(t *testing.T) {
	works(t)
	m := start(t, fastapi(t, 4)).allReady()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}, Timeout: 2 * time.Minute}
	defer client.CloseIdleConnections()
	work := make(chan func() error)
	go func() {
		defer close(work)
		for n := range 2000 {
			work <- func() error { return checkItem(client, m, n, n*37%20000) }
			if n%10 == 0 {
				work <- func() error { return checkStream(client, m, n) }
			}
			if n%100 == 0 {
				work <- func() error { return checkUpload(client, m, n) }
			}
			if n%400 == 0 {
				work <- func() error { return checkItem(client, m, n, 10<<20) }
			}
		}
	}()
	seen := newTally()
	crowd(24, func(_, _ int) bool {
		one, more := <-work
		if !more {
			return false
		}
		if err := one(); err != nil {
			seen.add("error", err.Error())
		}
		return true
	}).Wait()
	if wrong := seen.except(); wrong != "" {
		t.Error(wrong)
	}
	for _, w := range m.workers() {
		if got := m.metric("stoker_requests_total", `worker="`+w.Name+`"`); got < 2225/4/2 {
			t.Errorf("%s served %v of 2225 requests: that is no balance", w.Name, got)
		}
	}
	m.stop()
}

func checkItem(client *http.Client, m *master, n, size int) error {
	response, err := client.Get(m.url(fmt.Sprintf("/item/%d?size=%d", n, size)))
	if err != nil {
		return err
	}
	body, err := readAll(response)
	if want := sha3.SumSHAKE128([]byte(strconv.Itoa(n)), size); err == nil && !bytes.Equal(body, want) {
		err = fmt.Errorf("item %d: %d bytes that differ from the %d expected", n, len(body), size)
	}
	return err
}

func checkUpload(client *http.Client, m *master, n int) error {
	sent := sha3.SumSHAKE128([]byte(strconv.Itoa(n)), 1<<20)
	var body io.Reader = bytes.NewReader(sent)
	if n%200 == 0 {
		body = io.MultiReader(body) // of unknown length: chunked
	}
	response, err := client.Post(m.url("/digest"), "application/octet-stream", body)
	if err != nil {
		return err
	}
	got, err := readAll(response)
	if want := fmt.Sprintf("%d %x", len(sent), sha256.Sum256(sent)); err == nil && string(got) != want {
		err = fmt.Errorf("upload %d: the application got %s, sent was %s", n, got, want)
	}
	return err
}

func checkStream(client *http.Client, m *master, n int) error {
	const events = 40
	response, err := client.Get(m.url(fmt.Sprintf("/stream/%d?events=%d&ms=5", n, events)))
	if err != nil {
		return err
	}
	body, err := readAll(response)
	if want := streamed(n, events); err == nil && string(body) != want {
		err = fmt.Errorf("stream %d: %q instead of %q", n, body, want)
	}
	if kind := response.Header.Get("Content-Type"); err == nil && !strings.HasPrefix(kind, "text/event-stream") {
		err = fmt.Errorf("stream %d: content type %q", n, kind)
	}
	return err
}

// streamed is what the application streams.
func streamed(n, events int) string {
	var text strings.Builder
	for i := range events {
		data := fmt.Sprintf("%d-%d", n, i)
		fmt.Fprintf(&text, "id: %d\ndata: %s %08x\n\n", i, data, crc32.ChecksumIEEE([]byte(data)))
	}
	return text.String() + "data: [DONE]\n\n"
}

func readAll(response *http.Response) ([]byte, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", response.Request.URL.Path, response.StatusCode, body)
	}
	return body, err
}

// TestFastAPIWorkerKilledUnderLoad kills a worker with KILL: it must come
// back, and only what was on it may fail, visibly.
func TestFastAPIWorkerKilledUnderLoad(t *testing.T) {
	m := start(t, fastapi(t, 4)).allReady()
	victim := m.workers()[1]
	var over atomic.Bool
	seen := newTally()
	failed := make(chan string, 1000)
	const clients = 20
	load := crowd(clients, func(client, turn int) bool {
		c := caller{address: m.address}
		id := fmt.Sprintf("kill-%d-%d", client, turn)
		n := client*1000 + turn
		a := c.get(fmt.Sprintf("/work/%d?ms=30", n), "X-Request-Id: "+id)
		switch {
		case a.outcome == complete && a.status == 200 && string(a.body) == strings.Repeat(fmt.Sprintf("answer %d ", n), 20):
			seen.add("right", "")
		case a.outcome == complete && a.status == 200:
			seen.add("WRONG BYTES", a.String())
		default:
			seen.add("failed", a.String())
			failed <- id
		}
		return !over.Load()
	})
	m.eventually("load on every worker", func() bool { return seen.count("right") > 200 })
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.eventually("the killed worker back", func() bool {
		w := m.worker(victim.Name)
		return w.State == "ready" && w.PID != victim.PID
	})
	before := m.metric("stoker_requests_total", `worker="`+victim.Name+`"`)
	m.eventually("the new worker serves", func() bool {
		return m.metric("stoker_requests_total", `worker="`+victim.Name+`"`) > before+20
	})
	over.Store(true)
	load.Wait()
	close(failed)
	if wrong := seen.except("right", "failed"); wrong != "" {
		t.Error(wrong)
	}
	// With least outstanding, a quarter of the clients were on it, or a few more.
	if n := seen.count("failed"); n > clients/2 {
		t.Errorf("%d requests failed: more than can have been on one worker of four with %d clients (%s)", n, clients, seen.except("right"))
	}
	for id := range failed {
		line := m.accessLine(id)
		if line["worker"] != victim.Name {
			t.Errorf("request %s failed and was not on the killed worker: %v", id, line)
		}
	}
	if w := m.worker(victim.Name); w.Restarts != 1 {
		t.Errorf("restarts of %s: %d, want 1", w.Name, w.Restarts)
	}
	m.stop()
}

// accessLine returns the access log's line for a request.
func (m *master) accessLine(id string) map[string]any {
	m.t.Helper()
	var found map[string]any
	m.eventually("access line of "+id, func() bool {
		for _, line := range m.logLines("id") {
			if line["id"] == id {
				found = line
				return true
			}
		}
		return false
	})
	return found
}
