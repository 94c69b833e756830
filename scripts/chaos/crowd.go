package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// verdict says what a whole answer is.
func (s *spec) verdict(response *http.Response, body []byte) result {
	if response.StatusCode == http.StatusOK {
		if err := s.check(body); err != nil {
			return result{wrong, err.Error()}
		}
		if id := response.Header.Get("X-Request-Id"); id != s.id {
			return result{wrong, "the answer has the id " + id}
		}
		return result{outcome: right}
	}
	if id := response.Header.Get("X-Request-Id"); id != s.id {
		return result{wrong, fmt.Sprintf("an answer of %d has the id %s", response.StatusCode, id)}
	}
	var ours struct {
		Error struct{ Message, Type, Code string }
	}
	err := json.Unmarshal(body, &ours)
	said := fmt.Sprintf("%d %s %s", response.StatusCode, ours.Error.Type, ours.Error.Code)
	if s.what == killer && strings.HasPrefix(said, "422 poison_request") {
		return result{refusal, said}
	}
	if err != nil || !slices.Contains(refusals, fmt.Sprintf("%d %s", response.StatusCode, ours.Error.Type)) || ours.Error.Message == "" {
		return result{wrong, fmt.Sprintf("status %d: %.300q", response.StatusCode, body)}
	}
	return result{refusal, said}
}

// refusals are the answers of our own that a client may see when things fail.
var refusals = []string{
	"429 overloaded", "502 upstream_error", "503 server_unavailable", "504 timeout",
}

// crowd is the clients, and what they have seen.
type crowd struct {
	stack   *stack
	clients sync.WaitGroup

	mu    sync.Mutex
	gate  sync.Cond // open changes
	isOn  bool
	over  bool
	busy  int
	seen  map[string]int // in this round
	all   map[string]int
	count int
}

func newCrowd(s *stack, o options) *crowd {
	c := &crowd{stack: s, seen: map[string]int{}, all: map[string]int{}}
	c.gate.L = &c.mu
	for i := range o.clients {
		c.clients.Go(func() { newClient(c, o, i).live() })
	}
	s.burst = func(n, pick int) { c.burst(o, n, pick) }
	return c
}

// open lets clients ask, shut keeps them from it and waits until none does.
func (c *crowd) open() { c.set(true, false) }

func (c *crowd) shut() {
	c.set(false, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy > 0 {
		c.gate.Wait()
	}
}

func (c *crowd) end() {
	c.set(false, true)
	c.clients.Wait()
}

func (c *crowd) set(on, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isOn, c.over = on, over
	c.gate.Broadcast()
}

// enter waits until clients may ask, without connections meanwhile, and is false
// when they are to go.
func (c *crowd) enter(w *wire) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.isOn && !c.over {
		w.close()
		c.gate.Wait()
	}
	if c.over {
		return false
	}
	c.busy++
	return true
}

func (c *crowd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy--
	c.gate.Broadcast()
}

func (c *crowd) add(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := string(r.outcome)
	if r.outcome == refusal {
		what = r.detail
	}
	c.seen[what]++
	c.all[what]++
}

// summary is what was seen since the last one.
func (c *crowd) summary() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := counts(c.seen)
	clear(c.seen)
	return text
}

func (c *crowd) total() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return counts(c.all)
}

func counts(of map[string]int) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[what], what))
	}
	return strings.Join(parts, ", ")
}

// client is one that asks one thing after another.
type client struct {
	crowd  *crowd
	chance *rand.Rand
	number int
	turn   int
	pools  []string
	wire   wire
}

func newClient(c *crowd, o options, number int) *client {
	pools := []string{"demo", "tcp"}
	if c != nil {
		pools = c.stack.poolNames()
	}
	return &client{crowd: c, number: number, pools: pools, chance: rand.New(rand.NewPCG(o.seed, 1<<32+uint64(number)))}
}

func (c *client) next() spec {
	c.turn++
	return drawSpec(c.chance, fmt.Sprintf("c%d-%d", c.number, c.turn), c.pools)
}

func (c *client) live() {
	defer c.wire.close()
	for c.crowd.enter(&c.wire) {
		s := c.next()
		c.ask(&s)
		c.crowd.leave()
		time.Sleep(s.think)
	}
}

// ask makes one request, and says what must not have come of it.
func (c *client) ask(s *spec) {
	stack := c.crowd.stack
	address, began := stack.address, time.Now()
	if s.second {
		address = stack.second
	}
	r := c.wire.do(s, address)
	c.crowd.add(r)
	switch r.outcome {
	case wrong, timedOut:
		stack.violated("request %v: %s: %s, after %v", s, r.outcome, r.detail, time.Since(began).Round(time.Millisecond))
	case noDial, lost, stale:
		if r.outcome == noDial && s.second || stack.excused(began, time.Now()) {
			return
		}
		stack.violated("request %v: %s though a master lived: %s", s, r.outcome, r.detail)
	case right, refusal, broken, left, crossed:
	}
}

// burst makes n requests at once, beside the clients.
func (c *crowd) burst(o options, n, pick int) {
	c.mu.Lock()
	c.count++
	number := 1000 * c.count
	c.mu.Unlock()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			one := newClient(c, o, number+i)
			defer one.wire.close()
			s := one.next()
			s.second = false
			if s.what == item || s.what == stream || s.what == digest || s.what == chunked {
				s.pool = one.pools[pick%len(one.pools)]
			}
			one.ask(&s)
		})
	}
	all.Wait()
}
