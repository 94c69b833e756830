//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stoker/internal/resolve/dnstest"
)

// far is a remote server that counts, and says its address.
type far struct {
	address string
	served  atomic.Int64
	sick    atomic.Bool
}

// startFar makes a server on each of the hosts, all on one port, as DNS has it.
func startFar(t *testing.T, hosts ...string) (port string, servers []*far) {
	t.Helper()
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, port0(port)))
		if err != nil {
			t.Fatal(err)
		}
		f := &far{address: l.Addr().String()}
		_, port, _ = net.SplitHostPort(f.address)
		server := &http.Server{Handler: f}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		servers = append(servers, f)
	}
	return port, servers
}

func port0(port string) string {
	if port == "" {
		return "0"
	}
	return port
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.sick.Load() {
		panic(http.ErrAbortHandler) // and not a byte: answers would be a sign of life
	}
	if r.URL.Path == "/health" {
		return
	}
	f.served.Add(1)
	time.Sleep(5 * time.Millisecond)
	io.WriteString(w, f.address)
}

// state of a server by its name, empty if there is none.
func (m *master) serverState(name string) string {
	for _, p := range m.status().Pools {
		for _, s := range p.Servers {
			if s.Name == name {
				return s.State
			}
		}
	}
	return ""
}

// onlyBy waits until requests are answered by exactly these.
func (m *master) onlyBy(servers ...*far) {
	m.t.Helper()
	m.eventually("requests at the right servers only", func() bool {
		want := map[string]bool{}
		for _, f := range servers {
			want[f.address] = true
		}
		seen := map[string]bool{}
		for range 4 * len(servers) {
			a := (&caller{address: m.address}).get("/work")
			if a.outcome != complete || !want[string(a.body)] {
				return false
			}
			seen[string(a.body)] = true
		}
		return len(seen) == len(want)
	})
}

// startNear starts a master whose pool may have nobody in it yet.
func startNear(t *testing.T, config string) *master {
	t.Helper()
	m := start(t, config)
	m.eventually("the admin socket", m.answersAdmin)
	return m
}

const farPool = "[[pools]]\nname = \"far\"\nhealth.interval = \"50ms\"\nhealth.failures = 1\n"

// TestBackupServer: it serves while the others cannot, and a reload makes it one
// of them, under load and without a request that is lost.
func TestBackupServer(t *testing.T) {
	_, servers := startFar(t, "127.0.0.1", "127.0.0.2")
	first, backup := servers[0], servers[1]
	m := startNear(t, farPool+fmt.Sprintf("[[pools.servers]]\naddress = %q\n[[pools.servers]]\naddress = %q\nname = \"spare\"\nbackup = true\n", first.address, backup.address))
	m.eventually("both ready", func() bool {
		return m.serverState(first.address) == "ready" && m.serverState("spare") == "ready"
	})
	if tier := m.metric("stoker_upstream_tier", `worker="spare"`); tier != 1 {
		t.Errorf("the backup's tier is %v", tier)
	}
	backup.served.Store(0)
	stop := m.load(8, "/work")
	if n := backup.served.Load(); n != 0 {
		t.Errorf("the backup served %d", n)
	}
	m.mustCommand("drain", first.address)
	m.eventually("the backup serves", func() bool { return backup.served.Load() > 20 })
	m.mustCommand("resume", first.address)
	m.onlyBy(first)
	m.rewrite("backup = true", "backup = false")
	m.mustCommand("reload")
	m.onlyBy(first, backup)
	m.rewrite("backup = false", "backup = true")
	m.mustCommand("reload")
	m.onlyBy(first)
	if ended, _ := stop(); ended.except(string(complete)) != "" {
		t.Errorf("not every request was answered whole: %s", ended.except(string(complete)))
	}
	first.sick.Store(true)
	m.onlyBy(backup)
	m.eventually("found unhealthy", func() bool { return m.serverState(first.address) == "unhealthy" }) // else its breaker would keep it out for 30 s
	first.sick.Store(false)
	m.onlyBy(first)
	m.stop()
}

// TestServersByName changes what DNS says under load. No request is lost.
func TestServersByName(t *testing.T) {
	waits(t)
	port, servers := startFar(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	names := dnstest.Start(t)
	const host = "engines.internal"
	say := func(ips ...string) {
		records := make([]string, len(ips))
		for i, ip := range ips {
			records[i] = host + ". 0 IN A " + ip
		}
		names.Set(host, dns.TypeA, records...)
	}
	m := startNear(t, fmt.Sprintf("resolver.address = %q\nresolver.min_interval = \"50ms\"\n", names.Address)+
		farPool+fmt.Sprintf("queue.timeout = \"30s\"\n[[pools.servers]]\naddress = \"%s:%s\"\n", host, port))

	// It starts without an answer, says so once, and asks again.
	whole := host + ":" + port
	m.eventually("the name unresolved", func() bool {
		return m.serverState(whole) == "unresolved" && strings.Contains(m.logText(), "cannot be resolved")
	})
	asked := names.Asked(host, dns.TypeA)
	m.eventually("asked again", func() bool { return names.Asked(host, dns.TypeA) > asked })
	say("127.0.0.1")
	m.onlyBy(servers[0])
	stop := m.load(8, "/work")
	say("127.0.0.1", "127.0.0.2", "127.0.0.3")
	m.onlyBy(servers...)
	say("127.0.0.2", "127.0.0.3")
	m.onlyBy(servers[1:]...)
	if state := m.serverState(host + "/" + servers[0].address); state != "" {
		t.Errorf("an address that went is %s", state)
	}

	// DNS fails, and what was there serves on.
	names.Fail(dns.RcodeServerFailure)
	m.eventually("the failure noted", func() bool { return strings.Contains(m.logText(), "cannot be resolved any more") })
	m.onlyBy(servers[1:]...)
	names.Fail(dns.RcodeSuccess)
	m.eventually("the end of it noted", func() bool { return strings.Contains(m.logText(), "is resolved again") })

	// One of its addresses is drained, and stays so when it goes and comes back.
	second := host + "/" + servers[1].address
	if text := m.mustCommand("drain", second); !strings.Contains(text, "idle") {
		t.Errorf("drain said %q", text)
	}
	m.onlyBy(servers[2])
	say("127.0.0.3")
	m.eventually("the drained address gone", func() bool { return m.serverState(second) == "" })
	say("127.0.0.2", "127.0.0.3")
	m.eventually("it back, and drained", func() bool { return m.serverState(second) == "drained" })
	m.onlyBy(servers[2])
	m.mustCommand("resume", second)
	m.onlyBy(servers[1:]...)

	// A reload changes what all of them have in common, and goes on with what was known.
	m.rewrite("health.interval = \"50ms\"", "health.interval = \"60ms\"")
	m.mustCommand("reload")
	m.onlyBy(servers[1:]...)
	if ended, _ := stop(); ended.except(string(complete)) != "" {
		t.Errorf("not every request was answered whole: %s", ended.except(string(complete)))
	}
	if n := strings.Count(m.logText(), "cannot be resolved"); n != 2 {
		t.Errorf("it was said %d times that the name cannot be resolved", n)
	}

	// The name as a whole is drained: later addresses too.
	m.mustCommand("drain", whole)
	say("127.0.0.1", "127.0.0.2", "127.0.0.3")
	m.eventually("the new address drained", func() bool { return m.serverState(host+"/"+servers[0].address) == "drained" })
	m.mustCommand("resume", whole)
	m.onlyBy(servers...)
	m.stop()
}

// TestServersBySRV: the lowest priority serves as long as it can, by weight.
func TestServersBySRV(t *testing.T) {
	waits(t)
	_, a := startFar(t, "127.0.0.1")
	_, b := startFar(t, "127.0.0.1")
	_, c := startFar(t, "127.0.0.1")
	names := dnstest.Start(t)
	const srv = "_http._tcp.engines.internal"
	record := func(f *far, priority, weight int) string {
		_, port, _ := net.SplitHostPort(f.address)
		return fmt.Sprintf("%s. 0 IN SRV %d %d %s h.internal.", srv, priority, weight, port)
	}
	names.Set("h.internal", dns.TypeA, "h.internal. 0 IN A 127.0.0.1")
	names.Set(srv, dns.TypeSRV, record(a[0], 10, 3000), record(b[0], 10, 1000), record(c[0], 20, 1))
	m := startNear(t, fmt.Sprintf("resolver.address = %q\nresolver.min_interval = \"50ms\"\n", names.Address)+farPool+
		fmt.Sprintf("policy = \"round_robin\"\nqueue.timeout = \"30s\"\n[[pools.servers]]\nsrv = %q\n", srv))
	m.eventually("all ready", func() bool {
		ready := 0
		for _, f := range []*far{a[0], b[0], c[0]} {
			if m.serverState("h.internal/"+f.address) == "ready" {
				ready++
			}
		}
		return ready == 3
	})
	a[0].served.Store(0)
	b[0].served.Store(0)
	c[0].served.Store(0)
	for range 80 {
		if got := (&caller{address: m.address}).get("/work"); got.outcome != complete {
			t.Error(got)
		}
	}
	if x, y, z := a[0].served.Load(), b[0].served.Load(), c[0].served.Load(); x < 57 || x > 63 || y < 17 || z != 0 {
		t.Errorf("served %d, %d and %d of 80; want 60, 20 and none", x, y, z)
	}
	a[0].sick.Store(true)
	b[0].sick.Store(true)
	m.onlyBy(c[0])
	b[0].sick.Store(false)
	m.onlyBy(b[0])
	names.Set(srv, dns.TypeSRV, record(c[0], 0, 0))
	m.onlyBy(c[0])
	m.stop()
}
