// Package config says what should run: TOML decoded strictly over default
// values, validated once, then read-only. It knows nothing of what is running.
package config

import (
	"net/netip"
	"time"
)

// Duration is a time.Duration written as a string ("1.5s", "20m") in a file.
type Duration time.Duration

// Std is d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Config is everything that one master runs. Load returns it validated;
// nobody changes it afterwards.
type Config struct {
	// Listen holds the addresses of the traffic door: "HOST:PORT", ":PORT" or
	// "unix:/PATH". Default 127.0.0.1:8000.
	// Where ListenTLS is written and Listen is not, there is none.
	Listen []string `toml:"listen"`
	// ListenTLS holds those of its listeners that speak TLS, written alike.
	ListenTLS []string `toml:"listen_tls"`
	// Admin is an additional TCP address ("HOST:PORT") of the admin listener,
	// which is always at RunDir/admin.sock. Empty: the socket alone.
	Admin string `toml:"admin"`
	// RunDir holds sockets, the keepers' files and the lock. One master at a time.
	RunDir string `toml:"run_dir"`
	// StateDir holds what is to be found after an end: crash reports. Where nothing
	// says it, it follows from RunDir and the user: see stateDirOf.
	StateDir string `toml:"state_dir"`
	// LogFormat is "text" or "json", for log and access log alike.
	LogFormat string `toml:"log_format"`
	// LogLevel is trace, debug, info, warn or error.
	LogLevel string `toml:"log_level"`
	// LogFile is a file that the log is appended to, instead of stderr. Engines
	// write to stderr all the same.
	LogFile string `toml:"log_file"`
	// AccessLog is "stdout", "stderr", "off" or a file that it is appended to.
	AccessLog string `toml:"access_log"`
	// AccessLogFormat is "text", "json" or "combined" (Apache's); empty: as LogFormat.
	AccessLogFormat string `toml:"access_log_format"`
	// TrustedProxies are the networks whose X-Forwarded-* and X-Request-Id are believed.
	TrustedProxies []netip.Prefix `toml:"trusted_proxies"`
	// OrphanTimeout is how long a keeper goes on without a master before it
	// ends its engine.
	OrphanTimeout Duration `toml:"orphan_timeout"`
	// ReadinessPath is a path at which the traffic listeners tell how the whole
	// is, ahead of all routes; empty: there is none.
	ReadinessPath string `toml:"readiness_path"`
	// UpgradeTimeout is how long the process of a binary upgrade may take until
	// it is ready to take over; past it, it is killed and the upgrade has failed.
	UpgradeTimeout Duration `toml:"upgrade_timeout"`

	TLS TLS `toml:"tls"`
	// ProxyProtocol is how proxies that pass on bytes name their clients.
	ProxyProtocol ProxyProtocol `toml:"proxy_protocol"`
	Clients       Clients       `toml:"clients"`
	Shutdown      Shutdown      `toml:"shutdown"`
	Recorder      Recorder      `toml:"recorder"`
	Crashes       Crashes       `toml:"crashes"`
	// Quarantine refuses what has killed engines.
	Quarantine Quarantine `toml:"quarantine"`
	// Resolver looks up servers that are given by name.
	Resolver Resolver `toml:"resolver"`
	Access   Access   `toml:"access"`
	CORS     CORS     `toml:"cors"`
	Limits   []Limit  `toml:"limits"`
	// ErrorPages are answers of our own to requests that fail.
	ErrorPages ErrorPages `toml:"error_pages"`
	// Tracing sends spans of requests to a collector.
	Tracing Tracing `toml:"tracing"`
	// Compression of answers.
	Compression Compression `toml:"compression"`
	Pools       []Pool      `toml:"pools"`
	// Routes: first match wins; with one pool and no route all goes there.
	Routes []Route `toml:"routes"`

	warnings Problems
}

// Clients bounds what clients may take: of time, of bytes, of connections.
type Clients struct {
	// HeadTimeout is how long a request's head may take, from its first byte.
	HeadTimeout Duration `toml:"head_timeout"`
	// IdleTimeout is how long a connection is kept for the next request.
	IdleTimeout Duration `toml:"idle_timeout"`
	// BodyTimeout is how long some more of a request's body may take; after it,
	// BodyRate bytes per second must have come on the whole, 0: any number.
	BodyTimeout Duration `toml:"body_timeout"`
	BodyRate    int      `toml:"body_rate"`
	// WriteTimeout is how long a client may take nothing of an answer that is
	// there for it; after it, it must take WriteRate bytes per second, 0: any number.
	WriteTimeout Duration `toml:"write_timeout"`
	WriteRate    int      `toml:"write_rate"`
	// TunnelIdle is how long nothing may pass through a WebSocket; 0: any time.
	TunnelIdle Duration `toml:"tunnel_idle"`
	// BodyMiB is the largest request body; 0: any.
	BodyMiB int `toml:"body_mib"`
	// ReadAheadMiB is how much of a body is held in memory to find the model
	// that it names, where routes ask for it.
	ReadAheadMiB int `toml:"read_ahead_mib"`
	// ReadAheadMemoryMiB is how much is held of all such bodies together.
	ReadAheadMemoryMiB int `toml:"read_ahead_memory_mib"`
	// Connections is how many there may be; 0: as many as descriptors allow.
	Connections int `toml:"connections"`
	// ConnectionsPerAddress is how many one address may have, a /64 in IPv6; 0: any number.
	ConnectionsPerAddress int `toml:"connections_per_address"`
}

// Shutdown bounds the end of the master.
type Shutdown struct {
	// Delay keeps serving, with readiness already 503, for outside balancers.
	Delay Duration `toml:"delay"`
	// DrainTimeout is how long requests in flight may take to finish.
	DrainTimeout Duration `toml:"drain_timeout"`
	// IdleGrace is how long an idle keep-alive connection is kept for one last
	// request, answered with "Connection: close".
	IdleGrace Duration `toml:"idle_grace"`
	// HardLimit bounds the whole shutdown; past it everything is killed.
	HardLimit Duration `toml:"hard_limit"`
}

// Crashes bounds the reports of engines' deaths on disk, the oldest going first.
type Crashes struct {
	// Keep is how many reports are kept; 0: none is written.
	Keep int `toml:"keep"`
	// SizeMiB is how large they may be together.
	SizeMiB int `toml:"size_mib"`
}

// Quarantine says how requests are known that kill engines.
type Quarantine struct {
	// Enabled is false where no request is ever suspected.
	Enabled bool `toml:"enabled"`
	// TTL is how long suspicion and conviction last.
	TTL Duration `toml:"ttl"`
	// BodyKiB is the largest request body that can be suspected, and tried again.
	BodyKiB int `toml:"body_kib"`
	// MemoryMiB is the budget for the bodies of requests in flight.
	MemoryMiB int `toml:"memory_mib"`
}

// Recorder says what is kept of the requests that pass, in memory.
type Recorder struct {
	// Enabled is false where nothing may be kept.
	Enabled bool `toml:"enabled"`
	// Keep is how many exchanges that have ended are kept for each worker.
	Keep int `toml:"keep"`
	// BodyKiB is how much of each body is kept: three quarters its beginning.
	BodyKiB int `toml:"body_kib"`
	// MemoryMiB is the budget for all of it.
	MemoryMiB int `toml:"memory_mib"`
	// RedactFields are names of header fields that are secret, beside the usual ones.
	RedactFields []string `toml:"redact_fields"`
	// RedactPatterns are regular expressions (RE2) of further secrets.
	RedactPatterns []string `toml:"redact_patterns"`
}

// Pool is a set of interchangeable upstreams: workers that we run (Command) or
// servers that others run (Servers), never both.
type Pool struct {
	Name string `toml:"name"`

	// Protocol is what its upstreams are spoken to in, by probes too: "http/1.1", or
	// "h2": HTTP/2, agreed upon by ALPN where a server speaks TLS, with prior
	// knowledge (h2c) otherwise.
	Protocol string `toml:"protocol"`
	// Policy is "least_outstanding" or "round_robin".
	Policy string `toml:"policy"`
	// WeighPrompts is how many tokens of prompts weigh as much as one request where
	// "least_outstanding" and affinity compare loads; 0: prompts weigh nothing.
	WeighPrompts int `toml:"weigh_prompts"`
	// CountTokens says that answers are looked into for their tokens, where they have any.
	CountTokens bool `toml:"count_tokens"`
	// MaxConcurrency is how many requests one upstream gets at a time; 0: any number.
	MaxConcurrency int `toml:"max_concurrency"`
	// MinRemaining is what must be left of a client's deadline to pass a request on.
	MinRemaining Duration `toml:"min_remaining"`
	// SlowStart is how long a new engine takes to come to its full share; 0: at once.
	SlowStart Duration `toml:"slow_start"`
	Affinity  Affinity `toml:"affinity"`
	Queue     Queue    `toml:"queue"`
	Retry     Retry    `toml:"retry"`
	Breaker   Breaker  `toml:"breaker"`
	Health    Health   `toml:"health"`
	// ConnectTimeout bounds the dial to an upstream.
	ConnectTimeout Duration `toml:"connect_timeout"`
	// ResponseTimeout bounds the wait for an answer's head; 0 waits for ever,
	// as a long prompt may need.
	ResponseTimeout Duration `toml:"response_timeout"`
	// DrainTimeout is how long a worker that leaves the pool may finish its requests.
	DrainTimeout Duration `toml:"drain_timeout"`
	// Drain is what becomes of the requests on a worker that leaves the pool:
	// "wait" lets them finish within DrainTimeout, "stop" cuts them at once,
	// "migrate" has streams go on elsewhere that can, and lets the others finish.
	Drain string `toml:"drain"`
	// OnDeath is what becomes of the requests on an engine that dies of which
	// nothing was sent to the client: "isolate" tries each once more, apart from
	// others, "fail" answers 502.
	OnDeath string `toml:"on_death"`

	// Migrate is what becomes of a stream of tokens whose worker fails it: "off", it
	// breaks; "replay", another worker is sent the same request where it will give
	// the same answer, and the client gets what it has not had; "continue" asks
	// for the rest of the text where it will not.
	Migrate string `toml:"migrate"`
	// TokenStallTimeout is how long such a stream that has begun may be without a
	// token; 0: any time.
	TokenStallTimeout Duration  `toml:"token_stall_timeout"`
	Migration         Migration `toml:"migration"`

	// Surge is how many workers more a rolling change may have: 0, or 1 to start
	// one beside before the first is drained. Two copies rarely fit one GPU.
	Surge int `toml:"surge"`
	// Command is the engine's argument vector; {socket}, {port}, {index},
	// {name} and {gpus} are replaced in it and in Env. No shell is involved.
	Command []string          `toml:"command"`
	Workers int               `toml:"workers"`
	Env     map[string]string `toml:"env"`
	Dir     string            `toml:"dir"`
	// User is a user name or number the engine runs as; empty: the master's.
	User string `toml:"user"`
	// GPUsPerWorker is how many devices each worker gets in CUDA_VISIBLE_DEVICES; 0: variable untouched.
	GPUsPerWorker int `toml:"gpus_per_worker"`
	// GPUs are the devices to assign from; empty: all visible ones.
	GPUs []string `toml:"gpus"`
	// StartTimeout bounds loading, from the engine's start to its first good probe.
	StartTimeout Duration `toml:"start_timeout"`
	// MaxStarting is how many workers of the pool may load at once; 0: all.
	MaxStarting int     `toml:"max_starting"`
	Restart     Restart `toml:"restart"`
	Stop        Stop    `toml:"stop"`

	Servers []Server `toml:"servers"`
}

// Affinity says which requests go to the same upstream, as long as that has no
// more than its part of the load.
type Affinity struct {
	// By is what they have in common: "prefix" (how their prompts begin),
	// "field:NAME" (a string of the body), "header:NAME", "cookie:NAME" (which clients
	// without one are given), "key" (what lets them in) or "client" (their
	// address); empty: nothing.
	By string `toml:"by"`
	// LoadPercent of its share of the load is what an upstream may have for them to
	// go there, 101 to 1000; 0: any load.
	LoadPercent int `toml:"load_percent"`
	// MemoryMiB bounds what is known, by "prefix", of who was given which prompts.
	MemoryMiB int `toml:"memory_mib"`
}

// Migration bounds what Migrate does.
type Migration struct {
	// Limit is how often one stream may change workers.
	Limit int `toml:"limit"`
	// InjectSeed gives a request a seed that neither has one nor temperature 0.
	InjectSeed bool `toml:"inject_seed"`
	// Engine is the engines' family, "llama-server", "vllm" or "sglang", which is
	// asked to count tokens where "continue" may need it; empty: none of them.
	Engine string `toml:"engine"`
	// StreamKiB bounds what is remembered of one stream, MemoryMiB what is held of
	// all in the pool, requests included.
	StreamKiB int `toml:"stream_kib"`
	MemoryMiB int `toml:"memory_mib"`
}

// Queue bounds the requests that wait for a worker.
type Queue struct {
	// Length is how many may wait; 0: none, refused at once.
	Length int `toml:"length"`
	// Timeout is how long each may wait.
	Timeout Duration `toml:"timeout"`
	// PriorityHeader names the field that holds a request's priority, -9 to 9,
	// higher first; empty: first come first served.
	PriorityHeader string `toml:"priority_header"`
}

// Retry says when a request of which nothing was sent is tried elsewhere.
type Retry struct {
	// Attempts is how many upstreams one request may be tried on, the first included.
	Attempts int `toml:"attempts"`
	// BudgetPercent of the requests in flight may be retries, and BudgetMin in any case.
	BudgetPercent int `toml:"budget_percent"`
	BudgetMin     int `toml:"budget_min"`
}

// Breaker says when an upstream on which requests fail gets none for a while.
type Breaker struct {
	// Failures in a row that open it; 0: never.
	Failures int `toml:"failures"`
	// Within is the time in which they must have come.
	Within Duration `toml:"within"`
	// Open is how long it then stays open.
	Open Duration `toml:"open"`
}

// Health says how a worker or server is asked how it is, and when it is taken for hung.
type Health struct {
	// Kind of the probes: "http", "tcp", "command", "canary" or "grpc".
	Kind string `toml:"kind"`
	// Path is asked for by GET. Empty: /health, and any answer but 5xx counts;
	// set: only 2xx counts.
	Path string `toml:"path"`
	// Service is what a "grpc" probe asks about; empty: the server as a whole.
	Service string `toml:"service"`
	// Command is what a "command" probe runs; exit code 0 is well. {address} is
	// replaced in it besides the usual placeholders.
	Command []string `toml:"command"`
	// Interval between two probes of a ready upstream.
	Interval Duration `toml:"interval"`
	// Timeout of one probe.
	Timeout Duration `toml:"timeout"`
	// Failures in a row that take a ready upstream out.
	Failures int `toml:"failures"`
	// Successes in a row that let one in.
	Successes int `toml:"successes"`
	// StallTimeout is how long a worker with requests may be silent, although
	// its probes are good, until a canary is sent; one that gets no answer to it
	// either is hung. Zero: never.
	StallTimeout Duration `toml:"stall_timeout"`
	// MetricsPath is the engine's own metrics page, whose growing counters are
	// signs of life; empty: not read.
	MetricsPath string `toml:"metrics_path"`
	// ProgressMetrics are counters that grow while the engine works, BusyMetrics
	// gauges that are more than 0 while it has something to do; empty: those of
	// the usual engines.
	ProgressMetrics []string `toml:"progress_metrics"`
	BusyMetrics     []string `toml:"busy_metrics"`
	// MaxWaiting requests may wait in the engine, by that page, and MaxCachePercent
	// of its KV cache be full, for it to get new ones while another may; 0: any.
	MaxWaiting      int `toml:"max_waiting"`
	MaxCachePercent int `toml:"max_cache_percent"`
	// LoadInterval is how often these are read, from WaitingMetrics and
	// CacheMetrics; empty: those of the usual engines.
	LoadInterval   Duration `toml:"load_interval"`
	WaitingMetrics []string `toml:"waiting_metrics"`
	CacheMetrics   []string `toml:"cache_metrics"`
	Canary         Canary   `toml:"canary"`
}

// Canary is a tiny completion, which tells an engine that works from one that only answers.
type Canary struct {
	// Path is posted to; empty: no canary is sent, unless Health.Kind is "canary".
	Path string `toml:"path"`
	// Model that is asked for; empty: none is named.
	Model string `toml:"model"`
	// Body is sent instead of the usual one for Path.
	Body string `toml:"body"`
	// APIKey is sent as a bearer token, where the engine wants one.
	APIKey string `toml:"api_key"`
	// Timeout of one canary.
	Timeout Duration `toml:"timeout"`
}

// The protocols that upstreams are spoken to in.
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
)

// Restart says when a dead engine is started again.
type Restart struct {
	// Delay before the second restart in a row (the first is immediate), doubled each time up to MaxDelay, with jitter.
	Delay    Duration `toml:"delay"`
	MaxDelay Duration `toml:"max_delay"`
	// ResetAfter is the spell of ready after which failures are forgotten.
	ResetAfter Duration `toml:"reset_after"`
	// MaxFailures in a row before the worker is given up as failed; 0: never.
	MaxFailures int `toml:"max_failures"`
}

// Stop says how an engine is ended.
type Stop struct {
	// Signal asks the engine to end: TERM, INT or QUIT.
	Signal string `toml:"signal"`
	// Grace is how long it may take before the whole tree is killed.
	Grace Duration `toml:"grace"`
	// HungSignal is what an engine is sent that was found hanging: TERM, INT,
	// QUIT or ABRT, which makes many leave a trace of where they hang.
	HungSignal string `toml:"hung_signal"`
	// HungGrace is how long that one may take.
	HungGrace Duration `toml:"hung_grace"`
	// GoneCommand, where set, is run after an engine has ended until it exits
	// with 0 (GPU memory is free), before the next engine of the slot starts.
	// {gpus} and the other placeholders are replaced.
	GoneCommand []string `toml:"gone_command"`
	// GoneTimeout bounds the wait for GoneCommand.
	GoneTimeout Duration `toml:"gone_timeout"`
}
