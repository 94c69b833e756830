package balancer

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// TestEnginesThatDieTogetherConvictNobody: a hundred runs in which groups of engines,
// up to all of them, are killed within some milliseconds, among clients that send
// again what broke off, and in every other with a request that kills. Those that were
// killed keep their connections for a while, as large processes do, and take in what
// they will never read. Nobody innocent is convicted or refused, and nobody's request
// is lost but what had begun; poison is convicted.
func TestEnginesThatDieTogetherConvictNobody(t *testing.T) {
	runs := 100
	if testing.Short() || raceEnabled {
		runs = 20
	}
	groups, poisoned, lost := 0, 0, 0
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) {
			g := dieTogether(t, uint64(seed), seed%2 == 1)
			groups += g.groups
			poisoned += g.w.deaths["poison"]
			lost += g.statuses[http.StatusBadGateway]
			if g.statuses[http.StatusUnprocessableEntity] > 0 || g.convicted > 0 {
				t.Errorf("seed %d: innocents convicted: %d, answered: %v", seed, g.convicted, g.statuses)
			}
			if g.statuses[http.StatusServiceUnavailable]+g.statuses[http.StatusTooManyRequests] > 0 {
				t.Errorf("seed %d: innocents were answered %v", seed, g.statuses)
			}
			if seed%2 == 1 && g.poison[len(g.poison)-1] != http.StatusUnprocessableEntity {
				t.Errorf("seed %d: poison was answered %v", seed, g.poison)
			}
			if n := g.w.deaths["poison"]; n > 2+g.groups {
				t.Errorf("seed %d: %d engines died of poison beside %d groups, answered %v", seed, n, g.groups, g.poison)
			}
		})
	}
	t.Logf("%d runs, %d groups died together, %d engines of poison, %d answers of innocents were 502", runs, groups, poisoned, lost)
}

// together is one run, and what innocents were answered.
type together struct {
	w         *world
	groups    int
	mu        sync.Mutex
	statuses  map[int]int
	poison    []int
	convicted int // innocents
}

func dieTogether(t *testing.T, seed uint64, poisoned bool) *together {
	t.Helper()
	const seconds, perSecond, killer = 20, 20, `{"prompt":"poison"}`
	workers := 2 + int(seed/2%4)
	g := &together{w: newWorld(t, seed, workers, nil), groups: 1 + int(seed/8%3), statuses: map[int]int{}}
	w := g.w
	w.linger = 300 * time.Millisecond
	var all sync.WaitGroup
	for n := range g.groups {
		at := time.Duration(1+6*n)*time.Second + time.Duration(w.draw(4000))*time.Millisecond
		all.Go(func() {
			time.Sleep(at)
			first, size := w.draw(workers), 2+w.draw(workers-1)
			for i := range size {
				w.engines[fmt.Sprintf("p-%d", (first+i)%workers)].kill("hand")
				time.Sleep(time.Duration(w.draw(20)) * time.Millisecond)
			}
		})
	}
	if poisoned {
		at := time.Duration(w.draw(12000)) * time.Millisecond
		all.Go(func() {
			time.Sleep(at)
			for range 8 {
				g.poison = append(g.poison, w.ask(killer))
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
	for n := range seconds * perSecond {
		time.Sleep(time.Second/perSecond/2 + time.Duration(w.draw(int(time.Second/perSecond))))
		all.Go(func() {
			status := 0
			for try := 0; status == 0 && try < 3; try++ { // it had begun, and broke off
				status = w.ask(innocent(n))
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.statuses[status]++
		})
	}
	all.Wait()
	w.end()
	poison := quarantine.Of("p", http.MethodPost, "/v1/chat/completions", []byte(killer)).Request
	for _, c := range w.court.List() {
		if c.Print != poison {
			g.convicted++
		}
	}
	return g
}

// TestNewsOfADeathComesBeforeTheConnectionBreaks: what the connection says of the
// request is waited for, and it had not been read.
func TestNewsOfADeathComesBeforeTheConnectionBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const body = `{"prompt":"read once"}`
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		tries := 0
		p.engine = func(worker string, _ []byte, sink exchange.Sink) error {
			if tries++; tries > 2 {
				_ = sink.Head(&http1.Response{Status: http.StatusOK}, 0)
				return sink.End(nil)
			}
			member := p.engines[worker].member
			p.running.Go(func() {
				member.SetReady(false)
				member.Died(time.Now())
			})
			time.Sleep(factsWait / 2)
			return &upstream.Failure{Op: upstream.OpRead, Sent: true, Unread: tries == 2, Err: io.ErrUnexpectedEOF}
		}
		x, _ := p.send(strings.NewReader(body), int64(len(body)))
		if x.Record.Status != http.StatusOK || tries != 3 || len(p.court.List()) > 0 {
			t.Errorf("status %d after %d tries, convicted: %v", x.Record.Status, tries, p.court.List())
		}
	})
}
