package exchange

import "time"

// Outcome says in one word why a request ended, for the log and for counting.
type Outcome string

// The outcomes. Each but OutcomeOK has one place that sets it.
const (
	// OutcomeOK: the whole answer was handed to the client.
	OutcomeOK Outcome = "ok"
	// OutcomeClientGone: the client hung up first; logged with status 499.
	OutcomeClientGone Outcome = "client_gone"
	// OutcomeClientError: the client sent what HTTP does not allow.
	OutcomeClientError Outcome = "client_error"
	// OutcomeUpstreamError: no answer, or none that is HTTP, came back (502).
	OutcomeUpstreamError Outcome = "upstream_error"
	// OutcomeUpstreamBroke: the answer broke off after its head was sent; the
	// client's connection was broken too.
	OutcomeUpstreamBroke Outcome = "upstream_broke"
	// OutcomeUpstreamTimeout: the upstream did not answer in time (504).
	OutcomeUpstreamTimeout Outcome = "upstream_timeout"
	// OutcomeNoRoute: no route led to a pool (404).
	OutcomeNoRoute Outcome = "no_route"
	// OutcomeQueueFull: all workers were busy and the pool's queue had no place left (429).
	OutcomeQueueFull Outcome = "queue_full"
	// OutcomeQueueTimeout: all workers were busy and none became free in time (429).
	OutcomeQueueTimeout Outcome = "queue_timeout"
	// OutcomeUnavailable: no worker was ready, not even after waiting for one (503).
	OutcomeUnavailable Outcome = "unavailable"
	// OutcomeDrained: cut because its worker left the pool, as drain = "stop" wants (503).
	OutcomeDrained Outcome = "drained"
	// OutcomeDeadline: the client's deadline was over, or too near to begin (504).
	OutcomeDeadline Outcome = "deadline"
	// OutcomeLimited: one connection too many, of all or of one client (503, 429),
	// or no more memory for bodies that must be looked into (503).
	OutcomeLimited Outcome = "limited"
	// OutcomePoison: refused because it, or its schema, has killed engines (422).
	OutcomePoison Outcome = "poison_request"
	// OutcomeIdle: a tunnel was ended since nothing had passed for clients.tunnel_idle.
	OutcomeIdle Outcome = "idle"
	// OutcomeUnauthorized: no key, or none that is valid (401).
	OutcomeUnauthorized Outcome = "unauthorized"
	// OutcomeForbidden: the client's network, or the page's origin, may not ask (403).
	OutcomeForbidden Outcome = "forbidden"
	// OutcomeRateLimited: more than a limit allows of one client, or of all (429).
	OutcomeRateLimited Outcome = "rate_limited"
	// OutcomeShutdown: refused or cut because the master is shutting down.
	OutcomeShutdown Outcome = "shutdown"
)

// Move is a change of a stream's worker.
type Move struct {
	Mode   string // how the stream went on: replay, continue, or tail where no other worker was needed
	Reason string // why it left its worker, in one word
}

// Record is what is known of one request, filled by whoever learns it and
// read once, by the front, when the request has ended. Logs and metrics are
// made from it alone.
type Record struct {
	BytesOut int64 // answer body bytes handed to the sink, or to a tunnel; first, as each piece adds to it

	ID        string    // X-Request-Id, ours or a trusted client's
	ClientIP  string    // the client as the access log shows it: behind a trusted proxy, whom that proxy named
	Start     time.Time // head read
	FirstByte time.Time // answer's head handed to the sink; zero when none was
	End       time.Time
	now       time.Time // see Hold

	// Own: it asked about ourselves, and was no request to any pool. It is
	// neither logged nor counted.
	Own bool

	// Route is the name of the route that led the request, where it has one.
	Route string
	// Referer and UserAgent are those of the request, where a log wants them.
	Referer, UserAgent string

	Key   string // name of the API key; empty: it had none that we know
	Limit string // name of the rate limit that refused it; empty: none did

	Pool     string
	Worker   string
	Attempts int // upstreams tried, 0 when none was
	// Retries says for each attempt after the first why the one before had
	// failed, in the words that the client would have been told (its code).
	Retries []string
	// BudgetExhausted: another attempt was due, and the pool's budget of
	// retries did not allow it.
	BudgetExhausted bool
	// Moves says how a stream whose worker failed it went on, each time. NotMoved
	// is why it did not, in one word; empty: it did, or need not.
	Moves    []Move
	NotMoved string
	// Model is that of a stream whose worker failed it, as metrics call it.
	Model string
	// ReplayedEvents were held back since the client had had them.
	ReplayedEvents int
	// Queued is how long the request waited for a place.
	Queued time.Duration

	// Refused says in one word why what came was no request, or came over one
	// connection too many; empty for requests. Anybody can make as many of these
	// as he likes.
	Refused string

	Status  int   // as sent to the client; 499 when it went away before an answer
	BytesIn int64 // request body bytes read from the client, or what it sent through a tunnel
	// Encoding is the content coding that we put the answer's body into; empty:
	// none. BytesPlain is how long the body was before.
	Encoding   string
	BytesPlain int64
	Outcome    Outcome
	// Err is the error behind any outcome but ok, for the log; it holds no
	// content of the request.
	Err error
}
