package balancer

import (
	"errors"
	"net/http"

	"stoker/balancer/guard"
	"stoker/internal/http1"
)

// challenge says how a client can say who it is.
const challenge = `Bearer realm="stoker"`

// turnAway ends a request that the guard has not let in: with an error, or, if it
// is a preflight that may be followed by the request it is about, with an answer.
func (a *attempt) turnAway(err error) verdict {
	if !errors.Is(err, guard.ErrPreflight) {
		return classify(err)
	}
	err = a.Head(&http1.Response{Status: http.StatusNoContent}, -1)
	if err == nil {
		err = a.End(nil)
	}
	if err != nil {
		return gone()
	}
	return verdict{ending: endedWell}
}

// judgeRefusal is about a request that the guard refuses.
func judgeRefusal(r *guard.Refusal) verdict {
	return verdict{ending: &ending{outcome: r.Outcome, status: r.Status, kind: r.Kind, code: r.Code, message: r.Text, retryAfter: r.RetryAfter}}
}
