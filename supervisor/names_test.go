package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/config"
	"stoker/internal/resolve"
	"stoker/upstream"
)

// fakeDNS answers as it is told.
type fakeDNS struct {
	mu      sync.Mutex
	answers map[string]resolve.Addresses
	srv     resolve.Services
	err     error
	asked   []time.Duration // since it began
	began   time.Time
}

func (d *fakeDNS) Addresses(_ context.Context, host string) (resolve.Addresses, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, time.Since(d.began))
	a, ok := d.answers[host]
	if d.err != nil || !ok {
		return resolve.Addresses{}, errors.Join(d.err, resolve.ErrNotFound)
	}
	return a, nil
}

func (d *fakeDNS) Services(context.Context, string) (resolve.Services, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.srv, d.err
}

// say sets what a host's addresses are, and for how long.
func (d *fakeDNS) say(host string, ttl time.Duration, partial bool, ips ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := resolve.Addresses{TTL: ttl, Partial: partial}
	for _, ip := range ips {
		a.IPs = append(a.IPs, netip.MustParseAddr(ip))
	}
	d.answers[host] = a
}

func (d *fakeDNS) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// named is a supervisor of one pool of servers, in a bubble, with a DNS of its
// own. Its servers are not probed: health.kind "command" with a program that
// nobody has would be, so that all stay unknown, which is of no matter here.
type named struct {
	*Supervisor
	dns  *fakeDNS
	up   *upstream.Pool
	log  *output
	conf *config.Config
}

func newNamed(t *testing.T, servers ...config.Server) *named {
	t.Helper()
	c := config.Default()
	c.RunDir = t.TempDir()
	p := config.DefaultPool("far")
	p.Health.Interval = config.Duration(time.Hour)
	p.Health.Kind, p.Health.Command = "command", []string{"/nonexistent"}
	p.Servers = servers
	c.Pools = []config.Pool{p}
	n := &named{
		dns: &fakeDNS{answers: map[string]resolve.Addresses{}, began: time.Now()},
		up:  upstream.NewPool("far", upstream.PoolOptions{}), log: &output{}, conf: c,
	}
	var err error
	n.Supervisor, err = New(Options{
		Config: c, Pools: map[string]*upstream.Pool{"far": n.up}, Epoch: 1, Registerer: prometheus.NewRegistry(),
		Log: hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Debug}),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.lookUp = func(config.Resolver) resolver { return n.dns }
	return n
}

func (n *named) begin(t *testing.T) {
	t.Helper()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// members are those of the pool, with weight and tier.
func (n *named) members() []string {
	var all []string
	for _, m := range n.up.Stats().Members {
		all = append(all, fmt.Sprintf("%s w%d t%d", m.Name, m.Weight, m.Tier))
	}
	slices.Sort(all)
	return all
}

func (n *named) want(t *testing.T, what string, members ...string) {
	t.Helper()
	synctest.Wait()
	if got := n.members(); !slices.Equal(got, members) {
		t.Errorf("%s: %q, want %q", what, got, members)
	}
}

func byName(address string) config.Server { return config.DefaultServer(address) }

func TestNameIsAskedAgainAsItsAnswersSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNamed(t, byName("e.internal:8000"))
		n.dns.say("e.internal", 10*time.Second, false, "10.0.0.1")
		n.begin(t)
		defer n.Stop(t.Context())
		n.want(t, "at first", "e.internal/10.0.0.1:8000 w1 t0")
		n.dns.say("e.internal", 0, false, "10.0.0.2", "10.0.0.1")
		time.Sleep(10*time.Second - time.Nanosecond)
		n.want(t, "before the time is over", "e.internal/10.0.0.1:8000 w1 t0")
		time.Sleep(time.Nanosecond)
		n.want(t, "after it", "e.internal/10.0.0.1:8000 w1 t0", "e.internal/10.0.0.2:8000 w1 t0")
		n.dns.say("e.internal", time.Hour, true, "10.0.0.3")
		time.Sleep(time.Second) // min_interval
		n.want(t, "half an answer takes nobody out", "e.internal/10.0.0.1:8000 w1 t0", "e.internal/10.0.0.2:8000 w1 t0", "e.internal/10.0.0.3:8000 w1 t0")
		n.dns.say("e.internal", time.Hour, false, "10.0.0.3")
		time.Sleep(5 * time.Minute) // max_interval
		n.want(t, "a whole one does", "e.internal/10.0.0.3:8000 w1 t0")
	})
}

func TestNameWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNamed(t, byName("e.internal:8000"))
		n.begin(t)
		defer n.Stop(t.Context())
		time.Sleep(5 * time.Minute)
		n.want(t, "unknown")
		var want []time.Duration
		for _, seconds := range []int{0, 1, 3, 7, 15, 31, 63, 123, 183, 243} {
			want = append(want, time.Duration(seconds)*time.Second)
		}
		if !slices.Equal(n.dns.asked, want) {
			t.Errorf("asked after %v, want %v", n.dns.asked, want)
		}
		servers := n.Status()[0].Servers
		if len(servers) != 1 || servers[0].State != ServerUnresolved || !strings.Contains(servers[0].Health.Reason, "no such name") {
			t.Errorf("status %+v", servers)
		}
		if ready, total := n.Ready(); ready != 0 || total != 1 {
			t.Errorf("ready %d of %d", ready, total)
		}
		n.dns.say("e.internal", time.Second, false, "10.0.0.1")
		time.Sleep(time.Minute)
		n.want(t, "found at last", "e.internal/10.0.0.1:8000 w1 t0")
		n.dns.fail(errors.New("no answer"))
		time.Sleep(24 * time.Hour)
		n.want(t, "what was there stays", "e.internal/10.0.0.1:8000 w1 t0")
		n.dns.fail(nil)
		time.Sleep(time.Minute)
		if text := n.log.String(); strings.Count(text, "cannot be resolved") != 2 || strings.Count(text, "is resolved again") != 1 {
			t.Errorf("not said once each:\n%s", text)
		}
	})
}

func TestSRVBecomesMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backup := config.Server{SRV: "_http._tcp.e.internal", Name: "_http._tcp.e.internal", Weight: 1}
		static := config.DefaultServer("10.9.9.9:1")
		static.Backup = true
		n := newNamed(t, backup, static)
		n.dns.srv = resolve.Services{TTL: time.Second, List: []resolve.Service{
			{Host: "a.internal", Port: 1, Priority: 10, Weight: 60000},
			{Host: "b.internal", Port: 2, Priority: 10, Weight: 6000},
			{Host: "c.internal", Port: 3, Priority: 30, Weight: 0},
			{Host: "d.internal", Port: 4, Priority: 30, Weight: 0},
		}}
		for i, host := range []string{"a", "b", "c"} {
			n.dns.say(host+".internal", time.Minute, false, fmt.Sprintf("10.0.0.%d", i+1))
		}
		n.begin(t)
		defer n.Stop(t.Context())
		n.want(t, "with a host that has no address", "10.9.9.9:1 w1 t1", "a.internal/10.0.0.1:1 w1000 t0", "b.internal/10.0.0.2:2 w100 t0", "c.internal/10.0.0.3:3 w1 t1")
	})
}

func TestNamesFollowTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNamed(t, byName("e.internal:8000"), byName("localhost:1"))
		n.dns.say("e.internal", time.Minute, false, "10.0.0.1")
		n.dns.say("f.internal", time.Minute, false, "10.0.0.5")
		n.begin(t)
		defer n.Stop(t.Context())
		adopt := func(resolver string, servers ...config.Server) {
			c := *n.conf
			c.Resolver.Address = resolver
			p := c.Pools[0]
			p.Servers = servers
			c.Pools = []config.Pool{p}
			n.Adopt(&c, map[string]*upstream.Pool{"far": n.up})
		}
		n.want(t, "at first", "e.internal/10.0.0.1:8000 w1 t0", "localhost:1 w1 t0")
		heavier := byName("e.internal:8000")
		heavier.Weight, heavier.Backup = 7, true
		adopt("", heavier, byName("f.internal:8000"))
		n.want(t, "another weight, another name", "e.internal/10.0.0.1:8000 w7 t1", "f.internal/10.0.0.5:8000 w1 t0")
		n.dns.say("e.internal", time.Minute, false, "10.0.0.9")
		time.Sleep(time.Minute)
		n.want(t, "the new weight holds for later addresses", "e.internal/10.0.0.9:8000 w7 t1", "f.internal/10.0.0.5:8000 w1 t0")
		n.dns.say("f.internal", time.Minute, false, "10.0.0.6")
		adopt("127.0.0.1:53", byName("f.internal:8000"))
		n.want(t, "another resolver is asked at once", "f.internal/10.0.0.6:8000 w1 t0")
		down := byName("f.internal:8000")
		down.Down = true
		adopt("127.0.0.1:53", down)
		n.want(t, "a name that is down", "f.internal:8000 w1 t0")
		before := len(n.dns.asked)
		time.Sleep(time.Hour)
		if len(n.dns.asked) != before {
			t.Error("a name that is down was looked up")
		}
	})
}
