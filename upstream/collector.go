package upstream

import "github.com/prometheus/client_golang/prometheus"

// Collector reads the pools when metrics are asked for: gauges that the pools
// know anyway cost nothing per request.
type Collector struct {
	pools    func() []*Pool
	inFlight *prometheus.Desc
	tunnels  *prometheus.Desc
	ready    *prometheus.Desc
	queued   *prometheus.Desc
	breaker  *prometheus.Desc
	opened   *prometheus.Desc
	affinity *prometheus.Desc
	tier     *prometheus.Desc
	waiting  *prometheus.Desc
	cache    *prometheus.Desc
	over     *prometheus.Desc
}

// NewCollector returns a collector over the pools that there are when it is
// asked, to be registered once.
func NewCollector(pools func() []*Pool) *Collector {
	return &Collector{
		pools: pools,
		inFlight: prometheus.NewDesc("stoker_requests_in_flight",
			"Requests that hold a place on an upstream now.", []string{"pool", "worker"}, nil),
		tunnels: prometheus.NewDesc("stoker_tunnels",
			"WebSockets that are open; each is a request in flight, too.", []string{"pool", "worker"}, nil),
		ready: prometheus.NewDesc("stoker_upstream_ready",
			"1 if the upstream takes requests, 0 if not.", []string{"pool", "worker"}, nil),
		tier: prometheus.NewDesc("stoker_upstream_tier",
			"How late the upstream's turn is: 0 serves first, the others only while nobody before them can.", []string{"pool", "worker"}, nil),
		waiting: prometheus.NewDesc("stoker_engine_waiting_requests",
			"Requests that wait in the engine, by its own metrics page.", []string{"pool", "worker"}, nil),
		cache: prometheus.NewDesc("stoker_engine_cache_usage_ratio",
			"How full the engine's KV cache is, by its own metrics page.", []string{"pool", "worker"}, nil),
		over: prometheus.NewDesc("stoker_engine_over_threshold",
			"1 if the engine's load is above a threshold, 0 if it is below them all; absent while nobody knows.", []string{"pool", "worker"}, nil),
		queued: prometheus.NewDesc("stoker_queue_length",
			"Requests that wait because no upstream can serve.", []string{"pool"}, nil),
		breaker: prometheus.NewDesc("stoker_breaker_state",
			"1 for the state that the upstream's breaker is in.", []string{"pool", "worker", "state"}, nil),
		opened: prometheus.NewDesc("stoker_breaker_opened_total",
			"Times that the upstream's breaker has opened.", []string{"pool", "worker"}, nil),
		affinity: prometheus.NewDesc("stoker_affinity_requests_total",
			"Requests with an affinity key that were given to an upstream, by whether it was their key's.", []string{"pool", "result"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.inFlight
	ch <- c.tunnels
	ch <- c.ready
	ch <- c.queued
	ch <- c.breaker
	ch <- c.opened
	ch <- c.affinity
	ch <- c.tier
	ch <- c.waiting
	ch <- c.cache
	ch <- c.over
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.pools() {
		s := p.Stats()
		ch <- prometheus.MustNewConstMetric(c.queued, prometheus.GaugeValue, float64(s.Queued), s.Name)
		for _, a := range []struct {
			result string
			n      uint64
		}{{"hit", s.Affinity.Hits}, {"moved", s.Affinity.Moved}, {"spilled", s.Affinity.Spilled}, {"new", s.Affinity.New}} {
			ch <- prometheus.MustNewConstMetric(c.affinity, prometheus.CounterValue, float64(a.n), s.Name, a.result)
		}
		for _, m := range s.Members {
			ch <- prometheus.MustNewConstMetric(c.inFlight, prometheus.GaugeValue, float64(m.InFlight), s.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(c.tunnels, prometheus.GaugeValue, float64(m.Tunnels), s.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(c.ready, prometheus.GaugeValue, oneIf(m.Ready), s.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(c.tier, prometheus.GaugeValue, float64(m.Tier), s.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(c.opened, prometheus.CounterValue, float64(m.BreakerOpened), s.Name, m.Name)
			c.collectLoad(ch, s.Name, &m)
			for _, state := range breakerStates {
				ch <- prometheus.MustNewConstMetric(c.breaker, prometheus.GaugeValue, oneIf(m.Breaker == state), s.Name, m.Name, string(state))
			}
		}
	}
}

// collectLoad tells what is known of an engine's own load.
func (c *Collector) collectLoad(ch chan<- prometheus.Metric, pool string, m *MemberStats) {
	if m.Load.Pressure == PressureUnknown {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.over, prometheus.GaugeValue, oneIf(m.Load.Pressure == PressureOver), pool, m.Name)
	if m.Load.Waiting >= 0 {
		ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, m.Load.Waiting, pool, m.Name)
	}
	if m.Load.CacheUsage >= 0 {
		ch <- prometheus.MustNewConstMetric(c.cache, prometheus.GaugeValue, m.Load.CacheUsage, pool, m.Name)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
