package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	maxName    = 48
	maxWorkers = 1024
	maxWeight  = 1000
	maxQueue   = 1 << 20
	maxGPUs    = 1024
	// maxStreamKiB is far more than any answer.
	maxStreamKiB = 1 << 20
	// minAffinityLoad lets some more than the average go where it belongs: with
	// exactly that, hardly anything would.
	minAffinityLoad, maxAffinityLoad = 101, 1000
	// maxAffinityMemory is room for some hundred million tokens.
	maxAffinityMemory = 1024
	// maxAttempts bounds how many upstreams one request is carried to.
	maxAttempts = 100
	// maxCount bounds what is merely counted.
	maxCount = 1 << 20
	// shortest is the least of the durations that repeat: below it a slip of
	// the unit would have us do nothing else.
	shortest = Duration(10 * time.Millisecond)
	// briefest is the least of the time-outs that must let something happen.
	briefest = Duration(time.Millisecond)
)

var poolName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// poolKey is the path of a key of the pool of that index.
func (v *validator) poolKey(i int, key string) string {
	return indexPath("pools", i) + "." + key
}

func (v *validator) validatePools() {
	pools := v.config.Pools
	if len(pools) == 0 {
		v.report("pools", `there is no pool: write [[pools]], name = "…", and command = ["…"] or [[pools.servers]]`)
	}
	for i := range pools {
		p := &pools[i]
		v.validatePoolName(i, p)
		v.validateKind(i, p)
		v.validateServing(i, p)
		if p.Remote() {
			v.validateServers(i, p)
		} else {
			v.validateWorkers(i, p)
		}
	}
	v.validateWorkerNames()
}

func (v *validator) validatePoolName(i int, p *Pool) {
	path := v.poolKey(i, "name")
	switch {
	case p.Name == "":
		v.report(path, `is missing: write a short name, such as "chat"`)
	case len(p.Name) > maxName:
		v.report(path, fmt.Sprintf("has %d characters: write at most %d, as sockets are named after it", len(p.Name), maxName))
	case !poolName.MatchString(p.Name):
		v.report(path, fmt.Sprintf("%s may have a-z, 0-9, \"_\" and \"-\", and begins with a letter or digit", quoteTOML(shorten(p.Name))))
	}
	for j := range i {
		if v.config.Pools[j].Name == p.Name {
			v.report(path, fmt.Sprintf("%q is also %s: give each pool a name of its own", p.Name, v.origin.at(v.poolKey(j, "name"))))
		}
	}
}

// validateWorkerNames sees that a name means one thing to an operator. Two
// workers never share one, as what precedes the last hyphen is their pool; but
// a pool or a server may be called "chat-0", which is also a worker of "chat".
func (v *validator) validateWorkerNames() {
	for i := range v.config.Pools {
		workers := &v.config.Pools[i]
		if workers.Remote() || workers.Name == "" {
			continue
		}
		for j := range v.config.Pools {
			other := &v.config.Pools[j]
			if index, ok := workers.indexOf(other.Name); ok {
				v.report(v.poolKey(j, "name"), fmt.Sprintf("%q is the name of worker %d of %s too: choose another", other.Name, index, v.origin.at(indexPath("pools", i))))
			}
			for k, server := range other.Servers {
				if index, ok := workers.indexOf(server.Name); ok {
					v.report(indexPath(v.poolKey(j, "servers"), k)+".name", fmt.Sprintf("%q is the name of worker %d of %s too: choose another", server.Name, index, v.origin.at(indexPath("pools", i))))
				}
			}
		}
	}
}

// indexOf is the index of the pool's worker of that name.
func (p *Pool) indexOf(name string) (int, bool) {
	for index := range min(p.Workers, maxWorkers) {
		if p.WorkerName(index) == name {
			return index, true
		}
	}
	return 0, false
}

// validateKind sees that a pool is of workers or of servers, and has no key
// that only the other kind knows.
func (v *validator) validateKind(i int, p *Pool) {
	pool := indexPath("pools", i)
	command, servers := v.poolKey(i, "command"), v.poolKey(i, "servers")
	switch {
	case p.Remote() && (len(p.Command) > 0 || v.written(command)):
		v.report(servers, fmt.Sprintf("a pool has workers or servers, not both: leave out these or %s, or make two pools", v.origin.at(command)))
	case p.Remote():
		for _, key := range workerKeys {
			if path := v.poolKey(i, key); v.written(path) && !v.isFaulty(path) {
				v.report(path, "makes no sense in a pool of servers, which others run: leave it out")
			}
		}
	case len(p.Command) > 0 || v.isFaulty(command) || v.isFaulty(servers):
	case v.written(command):
		v.report(command, `is empty: write the engine's program and arguments, such as ["vllm", "serve", "MODEL", "--uds", "{socket}"]`)
	default:
		v.report(pool, `has neither command nor servers: write command = ["…"] for workers of our own, or [[pools.servers]] for servers that run elsewhere`)
	}
}

// validateServing checks what both kinds of pool have.
func (v *validator) validateServing(i int, p *Pool) {
	key := func(name string) string { return v.poolKey(i, name) }
	v.validateProtocol(key("protocol"), p)
	v.oneOf(key("policy"), p.Policy, "least_outstanding", "round_robin")
	v.oneOf(key("drain"), p.Drain, "wait", "stop", "migrate")
	if p.Drain == "migrate" && p.Migrate == "off" && !v.isFaulty(key("migrate")) {
		v.report(key("drain"), `streams go on elsewhere only where the pool lets them: write migrate = "replay" or "continue" as well`)
	}
	v.oneOf(key("on_death"), p.OnDeath, "isolate", "fail")
	v.oneOf(key("migrate"), p.Migrate, "off", "replay", "continue")
	v.duration(key("token_stall_timeout"), p.TokenStallTimeout, 0)
	if p.Migration.Engine != "" {
		v.oneOf(key("migration.engine"), p.Migration.Engine, "llama-server", "vllm", "sglang")
	}
	v.number(key("migration.limit"), p.Migration.Limit, 1, maxAttempts)
	v.number(key("migration.stream_kib"), p.Migration.StreamKiB, 16, maxStreamKiB)
	v.number(key("migration.memory_mib"), p.Migration.MemoryMiB, 1, maxCount)
	v.number(key("queue.length"), p.Queue.Length, 0, maxQueue)
	if p.Queue.Length > 0 && p.Queue.Timeout == 0 {
		v.report(key("queue.timeout"), "must be more than 0s: to refuse at once instead of waiting, write length = 0")
	}
	v.duration(key("queue.timeout"), p.Queue.Timeout, 0)
	v.fieldName(key("queue.priority_header"), p.Queue.PriorityHeader)
	v.validateAffinity(i, &p.Affinity)
	v.number(key("weigh_prompts"), p.WeighPrompts, 0, maxCount)
	v.number(key("max_concurrency"), p.MaxConcurrency, 0, maxCount)
	v.duration(key("min_remaining"), p.MinRemaining, 0)
	v.duration(key("slow_start"), p.SlowStart, 0)
	v.number(key("retry.attempts"), p.Retry.Attempts, 1, maxAttempts)
	v.number(key("retry.budget_percent"), p.Retry.BudgetPercent, 0, 100)
	v.number(key("retry.budget_min"), p.Retry.BudgetMin, 0, maxCount)
	v.number(key("breaker.failures"), p.Breaker.Failures, 0, maxCount)
	v.duration(key("breaker.within"), p.Breaker.Within, shortest)
	v.duration(key("breaker.open"), p.Breaker.Open, shortest)
	v.duration(key("connect_timeout"), p.ConnectTimeout, briefest)
	v.duration(key("response_timeout"), p.ResponseTimeout, 0)
	v.duration(key("drain_timeout"), p.DrainTimeout, 0)
	v.validateHealth(i, p)
}

// validateProtocol checks what upstreams are spoken to in.
func (v *validator) validateProtocol(key string, p *Pool) {
	switch p.Protocol {
	case "h2c", "http2", "http/2", "grpc":
		v.report(key, fmt.Sprintf("%q is written %q: without TLS that is spoken with prior knowledge (h2c)", p.Protocol, HTTP2))
	default:
		v.oneOf(key, p.Protocol, HTTP1, HTTP2)
	}
}

// validateAffinity checks by what requests go to the same upstream.
func (v *validator) validateAffinity(i int, a *Affinity) {
	by, percent := v.poolKey(i, "affinity.by"), v.poolKey(i, "affinity.load_percent")
	kind, name, named := strings.Cut(a.By, ":")
	switch {
	case a.By == "":
	case (kind == "header" || kind == "cookie") && name != "" && headerName.MatchString(name):
	case kind == "header" || kind == "cookie":
		v.report(by, fmt.Sprintf("%s names no %s: write one such as %q", quoteTOML(shorten(a.By)), kind, map[string]string{"header": "header:X-Session-Id", "cookie": "cookie:stoker"}[kind]))
	case kind == "field" && bodyField.MatchString(name):
	case kind == "field":
		v.report(by, fmt.Sprintf(`%s names no field of a body: write one such as "field:user", or "field:metadata.user_id" for one within another`, quoteTOML(shorten(a.By))))
	case kind != "prefix" && kind != "key" && kind != "client" || named:
		v.report(by, fmt.Sprintf(`%s is none of "prefix", "field:NAME", "header:NAME", "cookie:NAME", "key" and "client"`, quoteTOML(shorten(a.By))))
	}
	v.number(v.poolKey(i, "affinity.memory_mib"), a.MemoryMiB, 1, maxAffinityMemory)
	switch {
	case a.LoadPercent == 0 || v.isFaulty(percent):
	case a.LoadPercent > 0 && a.LoadPercent <= 10:
		v.report(percent, fmt.Sprintf("%d is in percent: write %d for %[1]d times the average, 0 for no bound", a.LoadPercent, max(a.LoadPercent*100, minAffinityLoad)))
	default:
		v.number(percent, a.LoadPercent, minAffinityLoad, maxAffinityLoad)
	}
}

// bodyField is a key of a JSON object, or keys of objects within each other.
var bodyField = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,7}$`)

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]*$")

// fieldName checks the name of a request's field; none is fine.
func (v *validator) fieldName(key, name string) {
	if !headerName.MatchString(name) {
		v.report(key, fmt.Sprintf("%s is no field's name: write one such as \"X-Priority\", without colon or value", quoteTOML(shorten(name))))
	}
}

// requestPath checks a path that is asked for, or matched.
func (v *validator) requestPath(key, path string) {
	switch {
	case !strings.HasPrefix(path, "/"):
		v.report(key, fmt.Sprintf("must begin with a slash: write %s", quoteTOML("/"+shorten(path))))
	case strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' || r > 0x7e }):
		v.report(key, fmt.Sprintf("%s has characters that no request's path has: write them as %%20 and the like", quoteTOML(shorten(path))))
	}
}

// validateWorkers checks what a pool of workers has.
func (v *validator) validateWorkers(i int, p *Pool) {
	key := func(name string) string { return v.poolKey(i, name) }
	v.number(key("workers"), p.Workers, 1, maxWorkers)
	v.number(key("max_starting"), p.MaxStarting, 0, maxWorkers)
	v.number(key("surge"), p.Surge, 0, 1)
	v.duration(key("start_timeout"), p.StartTimeout, shortest)
	v.validateCommand(i, p)
	v.validateGPUs(i, p)

	v.duration(key("restart.reset_after"), p.Restart.ResetAfter, 0)
	v.number(key("restart.max_failures"), p.Restart.MaxFailures, 0, maxCount)
	ok := v.duration(key("restart.delay"), p.Restart.Delay, shortest)
	if v.duration(key("restart.max_delay"), p.Restart.MaxDelay, shortest) && ok && p.Restart.MaxDelay < p.Restart.Delay {
		v.report(key("restart.max_delay"), fmt.Sprintf("%s is less than delay, %s: write %q or more", p.Restart.MaxDelay, p.Restart.Delay, p.Restart.Delay.String()))
	}

	v.oneOf(key("stop.signal"), p.Stop.Signal, "TERM", "INT", "QUIT")
	v.duration(key("stop.grace"), p.Stop.Grace, 0)
	v.oneOf(key("stop.hung_signal"), p.Stop.HungSignal, "TERM", "INT", "QUIT", "ABRT")
	v.duration(key("stop.hung_grace"), p.Stop.HungGrace, 0)
	v.duration(key("stop.gone_timeout"), p.Stop.GoneTimeout, shortest)
	v.validateArgv(key("stop.gone_command"), p.Stop.GoneCommand, placeholders...)
}

// placeholders are what is replaced in a command and in the environment.
var placeholders = []string{"{socket}", "{port}", "{index}", "{name}", "{gpus}"}

var bracedWord = regexp.MustCompile(`\{[A-Za-z_]+\}`)

func (v *validator) validateCommand(i int, p *Pool) {
	command := v.poolKey(i, "command")
	v.validateArgv(command, p.Command, placeholders...)
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		path := joinPath(v.poolKey(i, "env"), name)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			v.report(path, `a variable's name is not empty and has no "="`)
		case strings.HasPrefix(name, "STOKER_"):
			v.report(path, "names that begin with STOKER_ are set by stoker itself: choose another")
		case name == "CUDA_VISIBLE_DEVICES" && p.GPUsPerWorker > 0:
			v.report(path, fmt.Sprintf("is set by stoker as %s says: leave one of them out", v.origin.at(v.poolKey(i, "gpus_per_worker"))))
		}
		v.validatePlaceholders(path, p.Env[name], placeholders)
	}
	if p.GPUsPerWorker == 0 && p.Mentions("{gpus}") && !v.isFaulty(v.poolKey(i, "gpus_per_worker")) {
		v.report(command, fmt.Sprintf("has {gpus} and no worker gets one: set %s to 1 or more", v.origin.at(v.poolKey(i, "gpus_per_worker"))))
	}
}

// validateArgv checks a program and its arguments.
func (v *validator) validateArgv(path string, argv []string, placeholders ...string) {
	for i, arg := range argv {
		if i == 0 && strings.TrimSpace(arg) == "" && !v.isFaulty(indexPath(path, i)) {
			v.report(indexPath(path, i), "is blank: the first element is the program to run")
		}
		v.validatePlaceholders(indexPath(path, i), arg, placeholders)
	}
	if len(argv) == 1 && strings.Contains(argv[0], " ") && !strings.HasPrefix(argv[0], "/") && !strings.ContainsAny(argv[0], `"'\`) {
		v.report(indexPath(path, 0), "is a whole command line, and no shell takes it apart: its words have to stand alone, as in "+quoteArray(strings.Fields(argv[0])))
	}
}

// validatePlaceholders sees slips of the keyboard: an engine told to listen on
// "{sokcet}" would be waited for until its start time-out.
func (v *validator) validatePlaceholders(path, text string, placeholders []string) {
	for _, word := range bracedWord.FindAllString(text, -1) {
		if slices.Contains(placeholders, word) {
			continue
		}
		for _, placeholder := range placeholders {
			if strings.EqualFold(word, placeholder) || distance(word, placeholder) == 1 {
				v.report(path, fmt.Sprintf("%s is replaced by nothing; did you mean %s?", word, placeholder))
			}
		}
	}
}

func (v *validator) validateGPUs(i int, p *Pool) {
	gpus, per := v.poolKey(i, "gpus"), v.poolKey(i, "gpus_per_worker")
	v.number(per, p.GPUsPerWorker, 0, maxGPUs)
	seen := map[string]int{}
	for j, gpu := range p.GPUs {
		path := indexPath(gpus, j)
		if gpu == "" || strings.ContainsAny(gpu, ", \t") {
			v.report(path, fmt.Sprintf("%q is not one device: write an index (\"0\") or an identity (\"GPU-…\") per element", gpu))
		}
		if first, twice := seen[gpu]; twice {
			v.report(path, fmt.Sprintf("%q is already element %d: name each device once", gpu, first))
		}
		seen[gpu] = j
	}
	if len(p.GPUs) == 0 || v.isFaulty(per) || v.isFaulty(gpus) || v.isFaulty(v.poolKey(i, "workers")) {
		return
	}
	if p.GPUsPerWorker == 0 {
		v.report(gpus, "are assigned to nobody: write gpus_per_worker = 1 or more")
		return
	}
	if need := p.Workers * p.GPUsPerWorker; need > len(p.GPUs) {
		v.report(gpus, fmt.Sprintf("has %d for %d workers with %d each, which need %d: name more, or have fewer workers", len(p.GPUs), p.Workers, p.GPUsPerWorker, need))
	}
}

// validateServers checks what a pool of servers has.
func (v *validator) validateServers(i int, p *Pool) {
	servers := v.poolKey(i, "servers")
	up, first := false, false
	for j, server := range p.Servers {
		key := func(name string) string { return indexPath(servers, j) + "." + name }
		up, first = up || !server.Down, first || !server.Backup
		v.number(key("weight"), server.Weight, 1, maxWeight)
		v.validateServerOrigin(key, &server)
		v.validateServerTLS(key, &server)
		if strings.ContainsFunc(server.Name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			v.report(key("name"), "must have no white space: it stands in logs and metrics")
		}
		for k := range j {
			other := func(name string) string { return v.origin.at(indexPath(servers, k) + "." + name) }
			switch {
			case server.origin() == "":
			case server.SRV != "" && p.Servers[k].SRV == server.SRV:
				v.report(key("srv"), fmt.Sprintf("%q is also %s: name it once", server.SRV, other("srv")))
			case server.SRV == "" && p.Servers[k].Address == server.Address:
				v.report(key("address"), fmt.Sprintf("%q is also %s: name each server once, with weight for a larger share", server.Address, other("address")))
			case p.Servers[k].Name == server.Name:
				v.report(key("name"), fmt.Sprintf("%q is also %s: give each server a name of its own", server.Name, other("name")))
			}
		}
	}
	if !up {
		v.report(servers, "are all down: leave one up, or take the pool out of the file")
	}
	if !first {
		v.report(servers, "are all backups: leave backup out of those that shall serve first")
	}
}

func (v *validator) validateServerAddress(path, address string) {
	if address == "" {
		v.report(path, `is missing: write HOST:PORT or unix:/PATH, such as "10.0.0.7:8000"`)
		return
	}
	if err := checkAddress(address, dialing); err != nil {
		v.report(path, err.Error())
		return
	}
	for i, own := range v.config.Doors() {
		if own == address {
			v.report(path, fmt.Sprintf("%q is our own %s: requests would come back for ever", address, v.origin.at(v.doorPath(i))))
		}
	}
}
