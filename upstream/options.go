package upstream

import "time"

// Policy says which of the members that can serve now is asked next.
type Policy int

// The policies.
const (
	// LeastOutstanding picks the member with the fewest requests in flight per
	// weight over all members (drawing two at random is worse below some 16
	// members); among equals it goes round.
	LeastOutstanding Policy = iota
	// RoundRobin goes round, each member as often as its weight says.
	RoundRobin
)

// PoolOptions are what a pool is made with, and may be changed to later.
type PoolOptions struct {
	Policy Policy
	// AffinityLoad is how much of the load, in percent of what is its share, a
	// member may have for requests to come to it by their key (see Want.Affinity),
	// at least 100; 0: any load.
	AffinityLoad int
	// PrefixMemory is how much memory, in bytes, may be taken to know who was
	// given which prompts (see Want.Prefix); it is taken when the first one comes.
	PrefixMemory int
	// PromptTokens is how many tokens of a prompt weigh as much as one request
	// where loads are compared; 0: prompts weigh nothing.
	PromptTokens int
	// MaxConcurrency is how many requests may be in flight on one member; 0: any
	// number. The others wait in the queue, which keeps their order, while an
	// engine's own queue would keep them from the member that is free first.
	MaxConcurrency int
	// QueueLength bounds the requests that wait while nobody can serve; 0: none may.
	QueueLength int
	// QueueTimeout bounds the wait of each. Once nobody has been ready for so
	// long, and nobody is expected to be, requests are refused at once.
	QueueTimeout time.Duration
	// Breaker keeps requests from a member on which they fail in a row.
	Breaker BreakerOptions
	// SlowStart is how long a new engine takes to come to its full share of the
	// requests, from a tenth of it; 0: it has that at once.
	SlowStart time.Duration
	// Transport is how bytes are carried to every member.
	Transport TransportOptions
}
