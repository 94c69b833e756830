package balancer

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// Rules say how requests to one pool are admitted and retried.
type Rules struct {
	// Attempts is how many members one request may be tried on, at least 1.
	Attempts int
	// RetryPercent of the requests in flight to the pool may be retries, and
	// RetryFloor may be in any case. More would double the load on a pool just
	// when it can take least.
	RetryPercent, RetryFloor int
	// MinRemaining is the least that must be left of a request's deadline for it
	// to be passed on: an answer that comes too late only takes others' time.
	MinRemaining time.Duration
	// QueueTimeout is how long a request under suspicion may wait for its turn, and
	// QueueLength how many such may wait that no engine has had yet.
	QueueTimeout time.Duration
	QueueLength  int
	// OnDeath is what becomes of the suspects of a death: OnDeathIsolate or
	// OnDeathFail; empty: nobody tells of deaths in this pool.
	OnDeath string
	// Affinity says which requests are to go to the same member.
	Affinity Affinity
	// WeighPrompts says that the pool wants to know how long prompts are.
	WeighPrompts bool
	// Migration says what becomes of streams whose worker fails them.
	Migration Migration
	// CountTokens says that the answers' tokens are counted, where they have any.
	CountTokens bool
	// PriorityHeader names the field that holds a request's priority; empty:
	// all are equal.
	PriorityHeader string
}

// DefaultRules are the rules of a pool for which no others are given.
func DefaultRules() Rules {
	return Rules{Attempts: 3, RetryPercent: 20, RetryFloor: 3, MinRemaining: 5 * time.Second, QueueTimeout: time.Minute, QueueLength: 1024}
}

// priority is what r says of its own, 0 if that is nothing or no number.
func (r *Rules) priority(q *http1.Request) int {
	if r.PriorityHeader == "" {
		return 0
	}
	for _, f := range q.Fields {
		if !isName(f.Name, r.PriorityHeader) {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(f.Value)); err == nil {
			return max(-upstream.MaxPriority, min(n, upstream.MaxPriority))
		}
		return 0
	}
	return 0
}

// lane is the way to one pool: its rules, and what is under way by them.
type lane struct {
	pool  Pool
	rules Rules
	ward  *ward // nil: not watched
	// budget is what streams may hold, all together; nil: none does.
	budget *continuation.Budget
	// inFlight counts the requests that wait or are being carried, retrying
	// those of them that have been retried.
	inFlight, retrying atomic.Int64
	// suspects counts those under suspicion that wait, and that no engine has had yet.
	suspects atomic.Int64
}

func newLane(pool Pool, rules Rules) *lane {
	l := &lane{pool: pool, rules: rules}
	if rules.Migration.Mode != "" {
		l.budget = continuation.NewBudget(rules.Migration.Memory)
	}
	return l
}

// acquire claims a place; the wait for it is added to the record. A request
// whose time is over is not passed on even if somebody could serve.
func (l *lane) acquire(ctx context.Context, x *exchange.Exchange, want *Want) (Lease, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	want.Queued = &x.Record.Queued
	return l.pool.Acquire(ctx, want)
}

// mayRetry takes one retry from the budget if that has one, until endRetry. Two
// are counted and not refused: who comes from an engine that died, as suspects are
// tried one by one and so bound themselves more tightly; and whose connection was
// refused, as that has cost no engine anything and happens but once to each, which
// leaves the pool by it. Requests that met a death in its first moment, before the
// pool knew, were once told 502 while others could have served them.
func (l *lane) mayRetry(r *Rules, after *verdict) bool {
	allowed := max(int64(r.RetryFloor), l.inFlight.Load()*int64(r.RetryPercent)/100)
	if l.retrying.Add(1) <= allowed || after.died || after.refused {
		return true
	}
	l.endRetry()
	return false
}

func (l *lane) endRetry() { l.retrying.Add(-1) }
