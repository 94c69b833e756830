package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// idleGrace is how long a master that leaves keeps connections that nobody uses.
const idleGrace = 500 * time.Millisecond

// settings are what events change in the configuration.
type settings struct {
	workers     map[string]int
	version     map[string]int // changes the environment: workers roll
	concurrency int
	queue       int
	policy      string
	drain       string
	listenTwo   bool
	interval    int // of probes, ms
	surge       int
	breaker     int
	broken      bool // the file makes no sense
}

func (s *stack) baseline() settings {
	b := settings{
		workers: map[string]int{"demo": 3, "tcp": 2}, version: map[string]int{}, concurrency: 6, queue: 200,
		policy: "least_outstanding", drain: "wait", interval: 250, breaker: 5,
	}
	if s.o.python != "" {
		b.workers["app"] = 2
	}
	return b
}

// poolNames in their order.
func (s *stack) poolNames() []string {
	if s.o.python == "" {
		return []string{"demo", "tcp"}
	}
	return []string{"demo", "tcp", "app"}
}

// vary changes one thing, as an event says.
func (b *settings) vary(pools []string, e event) {
	pool := pools[e.pick%len(pools)]
	switch e.how % 10 {
	case 0, 1:
		b.workers[pool] = 1 + e.how/10%4
	case 2:
		b.version[pool]++
	case 3:
		b.concurrency = []int{0, 1, 3, 20}[e.how/10%4]
	case 4:
		b.queue = []int{0, 5, 200}[e.how/10%3]
	case 5:
		b.policy = []string{"least_outstanding", "round_robin"}[e.how/10%2]
	case 6:
		b.drain = []string{"wait", "stop"}[e.how/10%2]
	case 7, 8:
		b.listenTwo = !b.listenTwo
	case 9:
		b.interval, b.surge, b.breaker = 100+e.how/10%4*100, e.how%2, e.how/10%3
	}
}

// writeConfig puts the settings into the file that masters read. Everything is
// quicker than by default, so that a round has many deaths in it.
func (s *stack) writeConfig() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.settings
	listen := []string{s.address}
	if b.listenTwo {
		listen = append(listen, s.second)
	}
	var text strings.Builder
	fmt.Fprintf(&text, `listen = %s
run_dir = %q
access_log = %q
log_format = "json"
log_level = "debug"
trusted_proxies = ["127.0.0.0/8"]
orphan_timeout = "30s"
upgrade_timeout = "10s"
shutdown.drain_timeout = "10s"
shutdown.idle_grace = "%v"
recorder.memory_mib = 8
`, list(listen...), s.runDir(), filepath.Join(s.dir, "access.log"), idleGrace)
	if b.broken {
		text.WriteString("nonsense = true\n")
	}
	for _, pool := range s.poolNames() {
		fmt.Fprintf(&text, `
[[pools]]
name = %q
command = %s
dir = %q
workers = %d
env.VERSION = "%d"
max_concurrency = %d
policy = %q
drain = %q
surge = %d
start_timeout = "10s"
drain_timeout = "3s"
queue.length = %d
queue.timeout = "5s"
breaker.failures = %d
breaker.open = "1s"
health.path = "/health"
health.interval = "%dms"
health.timeout = "500ms"
restart.delay = "20ms"
restart.max_delay = "300ms"
stop.grace = "700ms"
`, pool, s.engineCommand(pool), s.dir, b.workers[pool], b.version[pool], b.concurrency, b.policy, b.drain, b.surge, b.queue, b.breaker, b.interval)
	}
	for i, pool := range s.poolNames() {
		text.WriteString("\n[[routes]]\n")
		if i > 0 { // the first has the completions too
			fmt.Fprintf(&text, "path = \"/%s\"\n", pool)
		} else {
			fmt.Fprintf(&text, "path = \"/v1\"\npool = %q\n[[routes]]\npath = \"/%s\"\n", pool, pool)
		}
		fmt.Fprintf(&text, "pool = %q\n", pool)
	}
	path := filepath.Join(s.dir, "stoker.toml")
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *stack) engineCommand(pool string) string {
	self, _ := os.Executable()
	switch pool {
	case "app":
		return list(s.o.python, "-m", "uvicorn", "app:app", "--uds", "{socket}", "--no-access-log", "--log-level", "warning")
	case "tcp":
		return list(self, "engine", "--port", "{port}")
	default:
		return list(self, "engine", "--socket", "{socket}")
	}
}

// list is a TOML array of strings.
func list(words ...string) string {
	text, _ := json.Marshal(words)
	return string(text)
}
