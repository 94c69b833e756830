package balancer

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// world is a pool of engines that are killed, by requests and from outside,
// and start again. Only the engines are made up.
type world struct {
	pool    *upstream.Pool
	b       *Balancer
	court   *quarantine.Court
	load    time.Duration // of an engine
	mu      sync.Mutex
	rng     *rand.Rand
	engines map[string]*simEngine
	deaths  map[string]int // by what killed
	running sync.WaitGroup
	over    chan struct{}
	tasks   bool // requests are of type task
	// linger is for how long at most an engine that is killed keeps its connections,
	// and is given more, before the kernel closes them.
	linger time.Duration
}

// simEngine is one behind a member, and those after it.
type simEngine struct {
	w      *world
	member *upstream.Member
	dead   chan struct{} // of the present one
	alive  bool
	dying  bool // killed, and its connections are not closed yet
}

func newWorld(t *testing.T, seed uint64, workers int, change func(r *Rules)) *world {
	t.Helper()
	w := &world{
		pool: upstream.NewPool("p", upstream.PoolOptions{QueueLength: 1000, QueueTimeout: 30 * time.Second}),
		rng:  rand.New(rand.NewPCG(seed, 1)), engines: map[string]*simEngine{}, deaths: map[string]int{}, over: make(chan struct{}),
		load: 2 * time.Second, court: quarantine.New(quarantine.Options{TTL: time.Hour}),
	}
	rules := DefaultRules()
	rules.OnDeath, rules.QueueTimeout = OnDeathIsolate, 30*time.Second
	if change != nil {
		change(&rules)
	}
	w.b = newBalancer(t, Options{
		Pools: []Pool{simPool{w}}, Rules: map[string]Rules{"p": rules},
		Court: w.court, EvidenceLimit: 1 << 20, EvidenceMemory: 64 << 20,
	})
	w.pool.OnDeath(func(worker string, since time.Time) { w.b.Died("p", worker, since) })
	for i := range workers {
		name := fmt.Sprintf("p-%d", i)
		e := &simEngine{w: w, member: w.pool.Add(name, 1)}
		w.engines[name] = e
		e.start()
	}
	return w
}

func (w *world) end() {
	close(w.over)
	w.running.Wait()
}

// draw is a random number below n.
func (w *world) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (e *simEngine) start() {
	e.w.mu.Lock()
	e.dead, e.alive = make(chan struct{}), true
	e.w.mu.Unlock()
	e.member.Reset("127.0.0.1:1")
	e.member.SetExpected(false)
	e.member.SetReady(true)
}

// kill ends the engine: its connections break at once, its keeper tells of it a
// moment later.
func (e *simEngine) kill(by string) {
	e.w.mu.Lock()
	if !e.alive {
		e.w.mu.Unlock()
		return
	}
	e.alive = false
	e.w.deaths[by]++
	dead := e.dead
	if e.dying = e.w.linger > 0; !e.dying {
		close(dead)
	}
	e.w.mu.Unlock()
	e.w.running.Go(func() {
		if e.w.linger > 0 {
			time.Sleep(time.Duration(e.w.draw(int(e.w.linger))))
			e.w.mu.Lock()
			e.dying = false
			e.w.mu.Unlock()
			close(dead)
		}
		time.Sleep(time.Duration(1+e.w.draw(40)) * time.Millisecond)
		e.member.SetExpected(true)
		e.member.SetReady(false)
		e.member.Died(time.Now())
		e.w.b.Named("p", e.member.Name(), "crash-of-"+by)
		select {
		case <-time.After(e.w.load):
			e.start()
		case <-e.w.over:
		}
	})
}

// killAny kills an engine that lives.
func (w *world) killAny() {
	w.engines[fmt.Sprintf("p-%d", w.draw(len(w.engines)))].kill("hand")
}

// do answers, unless the engine dies first.
func (e *simEngine) do(x *exchange.Exchange, sink exchange.Sink) error {
	e.w.mu.Lock()
	dead, alive, dying := e.dead, e.alive, e.dying
	e.w.mu.Unlock()
	if dying {
		_, _ = io.Copy(io.Discard, x.Body)
		<-dead
		return &upstream.Failure{Op: upstream.OpRead, Sent: true, Unread: true, Replayable: true, Err: syscall.ECONNRESET}
	}
	if !alive {
		return &upstream.Failure{Op: upstream.OpDial, Err: syscall.ECONNREFUSED, Replayable: true}
	}
	if e.w.tasks {
		return e.perform(x, sink, dead)
	}
	text, err := io.ReadAll(x.Body)
	if err != nil {
		return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
	}
	whole := time.Duration(50+e.w.draw(500)) * time.Millisecond
	half := whole / 2
	stream := strings.Contains(string(text), "stream")
	died := &upstream.Failure{Op: upstream.OpRead, Sent: true, Err: io.ErrUnexpectedEOF}
	if stream {
		_ = sink.Head(&http1.Response{Status: 200}, -1)
		died.Begun = true
	}
	select {
	case <-dead:
		return died
	case <-time.After(half):
	}
	if e.lives() && strings.Contains(string(text), "poison") {
		e.kill("poison")
	}
	select {
	case <-dead:
		return died
	case <-time.After(half):
	}
	if !e.lives() {
		<-dead
		return died
	}
	if !stream {
		_ = sink.Head(&http1.Response{Status: 200}, 0)
	}
	return sink.End(nil)
}

func (e *simEngine) lives() bool {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return e.alive
}

// simPool gives places on them.
type simPool struct{ w *world }

func (p simPool) Name() string { return "p" }

func (p simPool) Acquire(ctx context.Context, want *Want) (Lease, error) {
	if f, ok := want.Failed.(simLease); ok {
		want.Failed = f.Lease
	}
	l, err := Over(p.w.pool).Acquire(ctx, want)
	if err != nil {
		return nil, err
	}
	e := p.w.engines[l.Name()]
	if a, ok := l.(*upstream.Alone); ok {
		return simAlone{a, simLease{l, e}}, nil
	}
	return simLease{l, e}, nil
}

// simAlone is a lease that keeps others away.
type simAlone struct {
	room

	simLease
}

type simLease struct {
	Lease

	engine *simEngine
}

func (l simLease) Do(_ context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	return l.engine.do(x, sink)
}
func (l simLease) Life() *upstream.Life { return lifeOf(l.Lease) }

// ask sends a request and returns the status, 0 for an answer that broke off.
func (w *world) ask(body string) int {
	sink := &fakeSink{}
	x := newExchange(sink)
	x.Request.Method, x.Request.Target = http.MethodPost, "/v1/chat/completions"
	x.Body, x.Length = strings.NewReader(body), int64(len(body))
	w.b.Serve(context.Background(), x)
	if sink.broken != nil || sink.head == nil {
		return 0
	}
	return sink.head.Status
}

// simulated is one run: what innocents saw, by status.
type simulated struct {
	mu        sync.Mutex
	innocents map[int]int
	poison    []int
}

// innocent is the body of the nth: most are of their own, some are what
// everybody asks, and a fifth uses one of the schemas of some application.
func innocent(n int) string {
	switch n % 10 {
	case 1, 6, 8:
		return `{"prompt":"ping"}`
	case 3:
		return fmt.Sprintf(`{"prompt":"a %d","tools":[{"name":"weather"}]}`, n)
	case 4:
		return fmt.Sprintf(`{"prompt":"b %d","response_format":{"type":"json_schema","n":%d}}`, n, n%3)
	case 5:
		return fmt.Sprintf(`{"prompt":"c %d","stream":true}`, n)
	}
	return fmt.Sprintf(`{"prompt":"d %d","pad":"%s"}`, n, strings.Repeat("x", n%40))
}

// simulate runs a pool for a while, with kills from outside and poison where asked.
func simulate(t *testing.T, seed uint64, kills int, poison func(try int) string) (*world, *simulated) {
	t.Helper()
	w := newWorld(t, seed, 4, nil)
	s := &simulated{innocents: map[int]int{}}
	const seconds, perSecond = 40, 30
	var all sync.WaitGroup
	for range kills {
		at, pair := time.Duration(3000+w.draw(35000))*time.Millisecond, w.draw(2) == 0
		all.Go(func() {
			time.Sleep(at)
			w.killAny()
			if pair { // what takes two engines at once: a driver, a hasty operator
				w.killAny()
			}
		})
	}
	if poison != nil {
		at := time.Duration(5000+w.draw(15000)) * time.Millisecond
		all.Go(func() {
			time.Sleep(at)
			for try := range 5 {
				status := w.ask(poison(try))
				s.poison = append(s.poison, status)
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
	for n := range seconds * perSecond {
		pause := time.Second/perSecond/2 + time.Duration(w.draw(int(time.Second/perSecond)))
		time.Sleep(pause)
		all.Go(func() {
			status := w.ask(innocent(n))
			s.mu.Lock()
			s.innocents[status]++
			s.mu.Unlock()
		})
	}
	all.Wait()
	w.end()
	return w, s
}

// TestNoInnocentIsConvicted: a hundred runs, in which engines are killed from
// outside, one or two at a time, and in two of three by a request too. In a
// thousand runs two innocents are convicted, each of them unlucky twice: its engine
// was killed, and within a second the one on which it was tried alone; no rule
// that needs no third death can tell that from poison.
func TestNoInnocentIsConvicted(t *testing.T) {
	runs := 100
	if testing.Short() || raceEnabled {
		runs = 20
	}
	deaths, broken, refused := 0, 0, 0
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) {
			var poison func(int) string
			kind, wanted := "", 0
			switch seed % 3 {
			case 1:
				kind, wanted = "request", 1
				poison = func(int) string { return `{"prompt":"poison"}` }
			case 2:
				kind, wanted = "schema", 1
				poison = func(try int) string {
					return fmt.Sprintf(`{"prompt":"poison %d","structured_outputs":{"none":%d}}`, try, 7)
				}
			}
			kills := seed / 3 % 6
			w, s := simulate(t, uint64(seed), kills, poison)
			if s.innocents[http.StatusUnprocessableEntity] > 0 {
				t.Errorf("seed %d: innocents were answered %v", seed, s.innocents)
			}
			found := 0
			for _, c := range w.court.List() {
				if string(c.Kind) == kind {
					found++
				} else if kind != "schema" || c.Kind != quarantine.KindRequest {
					t.Errorf("seed %d: convicted %+v", seed, c)
				}
			}
			if kills == 0 && (found != wanted || w.deaths["poison"] > 2) {
				t.Errorf("seed %d: %d of %d convicted, poison answered %v, deaths %v", seed, found, wanted, s.poison, w.deaths)
			}
			if w.deaths["poison"] > 2+w.deaths["hand"] { // each of those may have to be outweighed
				t.Errorf("seed %d: %d workers died of poison, answered %v", seed, w.deaths["poison"], s.poison)
			}
			deaths += w.deaths["poison"] + w.deaths["hand"]
			broken += s.innocents[0]
			refused += s.innocents[http.StatusBadGateway]
			if other := len(s.innocents); s.innocents[503]+s.innocents[429] > 0 {
				t.Errorf("seed %d: innocents were answered %v (%d kinds)", seed, s.innocents, other)
			}
		})
	}
	t.Logf("%d runs, %d deaths, %d answers of innocents broke off, %d got 502", runs, deaths, broken, refused)
}
