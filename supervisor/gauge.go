package supervisor

import (
	"context"
	"net/http"
	"sync"
	"time"

	"stoker/config"
	"stoker/upstream"
)

// What the usual engines call the requests that wait in them, and how full
// their KV cache is, of 1.
var (
	usualWaiting = []string{
		"vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred", "tgi_queue_size",
	}
	usualCacheUsage = []string{
		"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio",
	}
)

// staleAfter is how many intervals what was read last is good for. Then it is
// unknown: an engine that is too busy to answer is not the one that it was.
const staleAfter = 3

// gauge reads a ready engine's load from its metrics page, again and again, and
// tells the pool. It runs in a goroutine of its own, so that a page that comes
// late delays no probe, and no probe the page.
type gauge struct {
	member         member
	client         *http.Client
	url            string
	waiting, cache map[string]bool
	maxWaiting     int     // 0: any number
	maxCache       float64 // of 1; 0: any
	interval       time.Duration
	lastRead       time.Time
	cancel         context.CancelFunc
	ended          sync.WaitGroup
	known          bool // something is
}

// newGauge returns nil where nobody wants to know.
func newGauge(h config.Health, address string, how manner) *gauge {
	if h.MetricsPath == "" || h.MaxWaiting == 0 && h.MaxCachePercent == 0 {
		return nil
	}
	t := newPeer(address, how)
	return &gauge{
		client: newProbeClient(t), url: "http://" + t.host + h.MetricsPath,
		waiting: nameSet(h.WaitingMetrics, usualWaiting), cache: nameSet(h.CacheMetrics, usualCacheUsage),
		maxWaiting: h.MaxWaiting, maxCache: float64(h.MaxCachePercent) / 100, interval: max(h.LoadInterval.Std(), firstPause),
	}
}

// begin reads for m until end. A nil gauge does nothing.
func (g *gauge) begin(m member) {
	if g == nil {
		return
	}
	g.member = m
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	g.ended.Go(func() { g.run(ctx) })
}

// end stops reading; from then on nothing is known.
func (g *gauge) end() {
	if g == nil || g.cancel == nil {
		return
	}
	g.cancel()
	g.ended.Wait()
	g.cancel = nil
	g.member.SetLoad(nil)
	g.client.CloseIdleConnections()
}

func (g *gauge) run(ctx context.Context) {
	tick := time.NewTicker(g.interval)
	defer tick.Stop()
	for {
		g.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look reads once. A page without any of the numbers says nothing, as one that
// does not come.
func (g *gauge) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, g.interval)
	defer cancel()
	if l, ok := g.read(limited); ok && ctx.Err() == nil {
		g.lastRead = time.Now()
		g.known = true
		g.member.SetLoad(&l)
		return
	}
	if g.known && time.Since(g.lastRead) >= staleAfter*g.interval {
		g.known = false
		g.member.SetLoad(nil)
	}
}

func (g *gauge) read(ctx context.Context) (upstream.EngineLoad, bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, http.NoBody)
	if err != nil {
		return upstream.EngineLoad{}, false
	}
	status, _, body, err := fetch(g.client, r, maxPage)
	if err != nil || status/100 != 2 {
		return upstream.EngineLoad{}, false
	}
	l := g.load(string(body))
	return l, l.Pressure != upstream.PressureUnknown
}

// load makes of a page what the pool wants to know. Those who wait are added up;
// of the caches, where there are several (data-parallel engines behind one
// address, tensor-parallel ones that each say the same), the mean counts.
func (g *gauge) load(text string) upstream.EngineLoad {
	l := upstream.EngineLoad{Waiting: -1, CacheUsage: -1}
	sum, caches := 0.0, 0
	for name, value := range samples(text) {
		switch {
		case g.waiting[name]:
			l.Waiting = max(l.Waiting, 0) + value
		case g.cache[name]:
			sum += value
			caches++
		}
	}
	if caches > 0 {
		l.CacheUsage = sum / float64(caches)
	}
	waits, fills := g.maxWaiting > 0 && l.Waiting >= 0, g.maxCache > 0 && l.CacheUsage >= 0
	switch {
	case waits && l.Waiting > float64(g.maxWaiting), fills && l.CacheUsage > g.maxCache:
		l.Pressure = upstream.PressureOver
	case waits || fills:
		l.Pressure = upstream.PressureUnder
	}
	return l
}
