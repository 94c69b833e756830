//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestOverload: four times as many requests come as the workers can take. All
// their capacity is used, who is answered is so within the queue's time-out and
// two services, and the others are told to come again within the time-out.
func TestOverload(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) { overload(t, &s) })
	}
}

func overload(t *testing.T, s *subject) {
	t.Helper()
	const (
		workers, limit = 2, 4
		queueTimeout   = time.Second
		length         = 4 * time.Second
		slack          = 500 * time.Millisecond // of a loaded machine
	)
	m := start(t, strings.Replace(s.pool(t, workers), "[[pools]]", "[[pools]]\nmax_concurrency = 4\nqueue.timeout = \"1s\"", 1)).allReady()
	service := s.service(m, limit)
	var mu sync.Mutex
	var answered []time.Duration
	ended := newTally()
	var clients sync.WaitGroup
	pause := service / (4 * workers * limit)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	offered := int(length / pause)
	for n := range offered {
		<-tick.C
		clients.Go(func() {
			r := s.ask(m, n, false)
			took := time.Since(r.began)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case r.err == nil && r.status == 200 && s.exact(r.body, n, false):
				answered = append(answered, took)
				ended.add("answered", "")
			case r.err == nil && r.status == 429 && r.header.Get("Retry-After") != "" && strings.Contains(string(r.body), `"overloaded"`) && took <= queueTimeout+slack:
				ended.add("refused", "")
			default:
				ended.add("odd", took.String()+": "+r.String())
			}
		})
	}
	clients.Wait()
	if odd := ended.except("answered", "refused"); odd != "" {
		t.Error(odd)
	}
	if could := workers * limit * int(length/service); len(answered) < could*8/10 {
		t.Errorf("%d were answered, the workers could do %d", len(answered), could)
	}
	slices.Sort(answered)
	if p99 := answered[len(answered)*99/100]; p99 > queueTimeout+2*service+slack {
		t.Errorf("p99 of the answered is %v", p99)
	}
	if n := m.metric("stoker_requests_rejected_total", `reason="queue_timeout"`); int(n) != ended.count("refused") {
		t.Errorf("%v rejected by the metric, %d by the clients", n, ended.count("refused"))
	}
	if n := m.metric("stoker_queue_wait_seconds_count"); int(n) != offered+limit {
		t.Errorf("%v waits by the metric", n)
	}
	t.Logf("a service takes %v; of %d answered %d, p50 %v, p99 %v, refused %d", service, offered, len(answered),
		answered[len(answered)/2], answered[len(answered)*99/100], ended.count("refused"))
	m.stop()
}

// service is how long a short request takes on an engine that has so many of them.
func (s *subject) service(m *master, limit int) time.Duration {
	m.t.Helper()
	var slowest atomic.Int64
	var all sync.WaitGroup
	for n := range limit {
		all.Go(func() {
			r := s.ask(m, n, false)
			if r.err != nil || r.status != 200 {
				m.t.Errorf("before any load: %v", r)
			}
			slowest.Store(max(slowest.Load(), int64(time.Since(r.began))))
		})
	}
	all.Wait()
	return time.Duration(slowest.Load())
}

// TestDeadline: the engine is told what is left, and what comes too late is not begun.
func TestDeadline(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nmin_remaining = \"1s\"\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").allReady()
	c := &caller{address: m.address}
	m.eventually("a request of less than 10 ms", func() bool { return m.deadlinePassedOn(c, 30*time.Second) < 10*time.Millisecond })
	for timeout, path := range map[string]string{"0.5": "/work", "1.2": "/work?ms=5000"} {
		begin := time.Now()
		a := c.get(path, "X-Request-Timeout: "+timeout)
		if a.outcome != complete || a.status != 504 || !strings.Contains(string(a.body), `"timeout"`) || time.Since(begin) > 3*time.Second {
			t.Errorf("%s s for %s: %v after %v", timeout, path, a, time.Since(begin))
		}
	}
	if n := m.metric("stoker_requests_rejected_total", `reason="deadline"`); n != 1 {
		t.Errorf("%v refused for their deadline", n)
	}
	m.stop()
}

// deadlinePassedOn asks with a deadline: the engine is told what is left of it, which
// is no less than all of it without the time that the whole request has taken here.
func (m *master) deadlinePassedOn(c *caller, whole time.Duration) (took time.Duration) {
	m.t.Helper()
	const told = time.Millisecond // to which the engine is told
	begin := time.Now()
	a := c.get("/head", fmt.Sprintf("X-Request-Timeout: %g", whole.Seconds()))
	took = time.Since(begin)
	_, left, _ := strings.Cut(string(a.body), `"X-Request-Timeout":["`)
	left, _, _ = strings.Cut(left, `"`)
	seconds, err := strconv.ParseFloat(left, 64)
	if remains := time.Duration(seconds * float64(time.Second)); a.status != 200 || err != nil || remains < whole-took-told || remains > whole {
		m.t.Fatalf("after a request of %v with %v the engine saw %v", took, whole, a)
	}
	return took
}

// TestDrainStop: a worker that leaves takes its requests with it, visibly and at once.
func TestDrainStop(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\ndrain = \"stop\"\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").allReady()
	ended := make(chan answer, 1)
	go func() { ended <- (&caller{address: m.address}).get("/work?ms=15000") }()
	m.eventually("the request in flight", func() bool { return m.metric("stoker_requests_in_flight") == 1 })
	begin := time.Now()
	m.stop()
	if a := <-ended; a.outcome != complete || a.status != 503 || !strings.Contains(string(a.body), `"worker_stopped"`) || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %v", a, time.Since(begin))
	}
}
