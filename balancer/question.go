package balancer

import (
	"errors"

	"stoker/balancer/continuation"
)

// questioned is a lease on a member that somebody probes; see upstream.Member.Question.
type questioned interface{ Question() }

// question has a member asked whether it is well, where an attempt on it has ended as
// it does on an engine that is about to end, or has hung: silent in the middle of a
// stream, or politely before its end. Supervisor's question.go says what else does not.
func question(l Lease, err error) {
	if err == nil || !errors.Is(err, errStalled) && !errors.Is(err, continuation.ErrEnded) {
		return
	}
	if q, ok := l.(questioned); ok {
		q.Question()
	}
}
