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

// forgiving is a pool's whose engines are killed again and again.
const forgiving = "restart.max_delay = \"100ms\"\nrestart.reset_after = \"1ms\"\n"

// complete asks for tokens, of 10 ms each, and names the outcome.
func (m *master) complete(prompt string, tokens int) (what, text string) {
	body := fmt.Sprintf(`{"prompt":%q,"seed":1,"ignore_eos":true,"max_tokens":%d}`, prompt, tokens)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Post(m.url("/v1/completions"), "application/json", strings.NewReader(body))
	if err != nil {
		return "no answer", err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "broken off", err.Error()
	}
	return fmt.Sprint(response.StatusCode), string(answer)
}

// TestAllEnginesKilledAtOnceConvictNobody: somebody ends all engines in one go, as
// kill -9 of all and the kernel out of memory do, with a request on one of them.
// Once that was tried again on the next as that was being killed, too, and refused
// from then on for having killed two.
func TestAllEnginesKilledAtOnceConvictNobody(t *testing.T) {
	t.Parallel()
	const workers, rounds = 3, 16
	m := start(t, modelPool(workers)+forgiving).allReady()
	for round := range rounds {
		seen := newTally()
		var all sync.WaitGroup
		for n := range 1 + round%2 {
			all.Go(func() { seen.add(m.complete(fmt.Sprintf("%d of %d", n, round), 15)) })
		}
		m.eventually("the requests on their engines", func() bool {
			return m.metric("stoker_requests_in_flight") == float64(1+round%2)
		})
		victims := m.workers()
		apart := time.Duration(round/2%4) * 7 * time.Millisecond
		began := time.Now()
		for i := range victims {
			if i > 0 {
				time.Sleep(apart)
			}
			_ = syscall.Kill(victims[(i+round)%workers].PID, syscall.SIGKILL)
		}
		took := time.Since(began)
		all.Wait()
		if wrong := seen.except("200"); wrong != "" {
			t.Errorf("round %d, engines killed within %v: %s", round, took, wrong)
		}
		m.eventually("all back", func() bool {
			for i, w := range m.workers() {
				if w.State != "ready" || w.PID == victims[i].PID {
					return false
				}
			}
			return true
		})
	}
	if line := m.explained("request convicted"); line != "" {
		t.Errorf("an innocent was convicted: %s", line)
	}
	m.stop()
}

// TestRequestThatNobodyReadIsInnocent: the engine on which a request is tried again
// does nothing any more, as one that the kernel is taking down, and dies with the
// request unread.
func TestRequestThatNobodyReadIsInnocent(t *testing.T) {
	t.Parallel()
	// That of the first is not back before the second has the request.
	m := start(t, strings.Replace(modelPool(2), `"0s"`, `"2s"`, 1)+forgiving).allReady()
	var what, text string
	var all sync.WaitGroup
	all.Go(func() { what, text = m.complete("read once", 100) })
	on := func(n int) (w workerStatus) {
		m.eventually("the request on an engine", func() bool {
			for i, one := range m.workers() {
				if one.InFlight == 1 && (n < 0 || n == i) {
					w = one
				}
			}
			return w.PID > 0
		})
		return w
	}
	first := on(-1)
	for i, other := range m.workers() {
		if other.Name == first.Name {
			continue
		}
		_ = syscall.Kill(other.PID, syscall.SIGSTOP)
		_ = syscall.Kill(first.PID, syscall.SIGKILL)
		on(i)
		_ = syscall.Kill(other.PID, syscall.SIGKILL)
	}
	all.Wait()
	if what != "200" {
		t.Errorf("the request is answered %s %s", what, text)
	}
	if line := m.explained("request convicted"); line != "" {
		t.Errorf("an innocent was convicted: %s", line)
	}
	m.stop()
}
