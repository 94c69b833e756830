package supervisor

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stoker/config"
	"stoker/upstream"
)

// gauged has thresholds: more than 4 waiting, more than 90 % of the cache.
func gauged() config.Health {
	h := config.DefaultPool("p").Health
	h.MetricsPath, h.MaxWaiting, h.MaxCachePercent = "/metrics", 4, 90
	return h
}

func TestWhatEnginesSayOfTheirLoad(t *testing.T) {
	for _, tc := range []struct {
		name, page string
		want       upstream.EngineLoad
	}{
		{"vLLM", "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3.0\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n", upstream.EngineLoad{Pressure: upstream.PressureUnder, Waiting: 3, CacheUsage: .25}},
		{"vLLM, data parallel", "vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"1\"} 2\nvllm:kv_cache_usage_perc{engine=\"0\"} 1\nvllm:kv_cache_usage_perc{engine=\"1\"} 0\n", upstream.EngineLoad{Pressure: upstream.PressureOver, Waiting: 5, CacheUsage: .5}},
		{"vLLM of old", "vllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.95\n", upstream.EngineLoad{Pressure: upstream.PressureOver, Waiting: 0, CacheUsage: .95}},
		{"SGLang", "sglang:num_queue_reqs{model_name=\"m\"} 5.0\nsglang:token_usage{model_name=\"m\"} 0.5\n", upstream.EngineLoad{Pressure: upstream.PressureOver, Waiting: 5, CacheUsage: .5}},
		{"llama-server", "llamacpp:requests_processing 2\nllamacpp:requests_deferred 4\n", upstream.EngineLoad{Pressure: upstream.PressureUnder, Waiting: 4, CacheUsage: -1}},
		{"TGI", "tgi_queue_size 7\n", upstream.EngineLoad{Pressure: upstream.PressureOver, Waiting: 7, CacheUsage: -1}},
		{"another's", "python_gc_objects_collected_total 7\n", upstream.EngineLoad{Pressure: upstream.PressureUnknown, Waiting: -1, CacheUsage: -1}},
		{"no page", "<html>", upstream.EngineLoad{Pressure: upstream.PressureUnknown, Waiting: -1, CacheUsage: -1}},
	} {
		if got := newGauge(gauged(), "127.0.0.1:1", manner{}).load(tc.page); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
	one := gauged()
	one.MaxWaiting, one.CacheMetrics = 0, []string{"own_cache"}
	if got := newGauge(one, "127.0.0.1:1", manner{}).load("vllm:num_requests_waiting 900\nown_cache 0.1\n"); got.Pressure != upstream.PressureUnder {
		t.Errorf("without a threshold for those who wait: %+v", got)
	}
	for name, h := range map[string]config.Health{"no page": {MaxWaiting: 1}, "no threshold": {MetricsPath: "/metrics"}} {
		if newGauge(h, "127.0.0.1:1", manner{}) != nil {
			t.Errorf("%s: it is read all the same", name)
		}
	}
}

// pages answers each read with what is on its page, an error if that is empty.
type pages struct {
	mu   sync.Mutex
	page string
}

func (p *pages) show(page string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.page = page
}

func (p *pages) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.page == "hangs" {
		p.mu.Unlock()
		<-r.Context().Done()
		p.mu.Lock()
		return nil, r.Context().Err()
	}
	if p.page == "" {
		return nil, errors.New("no page")
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(p.page))}, nil
}

// TestOldNumbersAreUnknown: a page that does not come any more says nothing
// after three intervals, neither that the engine is free nor that it is not.
func TestOldNumbersAreUnknown(t *testing.T) {
	for _, gone := range []string{"", "hangs", "something else"} {
		synctest.Test(t, func(t *testing.T) {
			m, p := newFakeMember(), &pages{page: "tgi_queue_size 9\n"}
			g := newGauge(gauged(), "127.0.0.1:1", manner{})
			g.client.Transport = p
			g.begin(m)
			defer g.end()
			time.Sleep(time.Millisecond)
			if got := m.Load(); got.Pressure != upstream.PressureOver || got.Waiting != 9 {
				t.Fatalf("%+v", got)
			}
			p.show(gone)
			time.Sleep(2500 * time.Millisecond)
			if got := m.Load(); got.Pressure != upstream.PressureOver {
				t.Errorf("%q: after two intervals %+v", gone, got)
			}
			time.Sleep(2 * time.Second)
			if got := m.Load(); got.Pressure != upstream.PressureUnknown {
				t.Errorf("%q: after four intervals %+v", gone, got)
			}
			p.show("tgi_queue_size 0\n")
			time.Sleep(2 * time.Second)
			if got := m.Load(); got.Pressure != upstream.PressureUnder {
				t.Errorf("%q: the page is back, and %+v", gone, got)
			}
			g.end()
			if got := m.Load(); got.Pressure != upstream.PressureUnknown {
				t.Errorf("after its end %+v", got)
			}
		})
	}
}
