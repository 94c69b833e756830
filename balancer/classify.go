package balancer

import (
	"context"
	"errors"
	"net/http"
	"syscall"

	"stoker/balancer/guard"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// statusClientGone is what the log says of a request whose client went away
// before it had an answer. Nobody is left to be told.
const statusClientGone = 499

// Types of errors in answers of our own.
const (
	typeUnavailable   = "server_unavailable"
	typeOverloaded    = "overloaded"
	typeUpstreamError = "upstream_error"
	typeTimeout       = "timeout"
	typeBadRequest    = "bad_request"
	typeNotFound      = "not_found"
	typePoison        = "poison_request"
	// typeInvalid is OpenAI's word for a request that asks for what there is not.
	typeInvalid = "invalid_request_error"
)

// verdict is what is to be done about the end of an attempt. It is small: whoever
// waits for a stream's end has room for one on its stack, and with all that a
// client is told in it they were a third of what each open stream took there. With
// more than four fields the compiler would keep each copy in memory, too.
type verdict struct {
	*ending
	marks
	err error
}

// marks are what an ending means for the member and for the request's next attempt.
type marks struct {
	retry   bool // another member may be tried: this one had nothing of the request
	refused bool // nobody listens there: the member leaves the pool at once
	blame   bool // the member's fault
	died    bool // the member's engine died with the request on it
}

// ending is how a request ends.
type ending struct {
	outcome exchange.Outcome
	// status, kind (the error's type), code and message are what the client is
	// told, if nothing of an answer was sent yet.
	status     int
	kind, code string
	message    string
	param      string       // of the request that is wrong; empty: none in particular
	retryAfter int          // seconds; 0: says nothing
	fields     http1.Fields // further ones of the answer
}

// endedWell is how nearly all end. It is nobody's to change.
var endedWell = &ending{outcome: exchange.OutcomeOK}

// isWell says whether the whole answer was handed to the client.
func (v verdict) isWell() bool { return v.ending == endedWell }

// add says more of how it ended, to the client. The ending is v's own: it was made for it.
func (v verdict) add(text string) { v.message += "; " + text }

// classify is the one place that turns an error into status, retry, blame and
// outcome.
//
//	ended by           before the answer           after it began   blamed
//	the client         499, 400 for no HTTP, 408   client_gone      nobody
//	shutdown           503                         shutdown         nobody
//	a conviction       422                         -                nobody
//	a busy pool        429                         -                nobody: 503 would have an outside balancer
//	                                                                take all of us for broken
//	a pool not ready   503                         -                nobody
//	a drain            503                         drained          nobody
//	the deadline       504                         deadline         nobody
//	an idle tunnel     -                           idle             nobody
//	an unmade request  404, 400, 501               -                nobody
//	the guard          401, 403, 429               -                nobody
//	too large a body   413                         client_error     nobody
//	dial               502, retried                -                the member
//	stale connection   502, retried if unsent      -                nobody: most often it crossed with our request
//	write              502, retried if unsent      -                the member
//	read, HTTP         502                         upstream_broke   the member
//	an unknown coding  502                         -                nobody; see coding.go
//	a death            502, or tried apart         upstream_broke   the member; see journey.second
//	no head in time    504                         -                the member
func classify(err error) verdict {
	if err == nil {
		return verdict{ending: endedWell}
	}
	v := judge(err)
	v.err = err
	return v
}

func judge(err error) verdict {
	var failure *upstream.Failure
	var request *requestError
	if poison, ok := errors.AsType[*poisonError](err); ok {
		return judgePoison(poison)
	}
	var refusal *guard.Refusal
	switch {
	case errors.As(err, &failure):
		return judgeFailure(failure)
	case errors.As(err, &request):
		return judgeRequest(request)
	case errors.As(err, &refusal):
		return judgeRefusal(refusal)
	case errors.Is(err, upstream.ErrNoneReady):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeUnavailable, status: http.StatusServiceUnavailable, kind: typeUnavailable, code: "no_worker_ready",
			message: "no worker is ready; try again later", retryAfter: 5,
		}}
	case errors.Is(err, upstream.ErrQueueFull):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeQueueFull, status: http.StatusTooManyRequests, kind: typeOverloaded, code: "queue_full",
			message: "all workers are busy and the queue is full; try again later", retryAfter: 1,
		}}
	case errors.Is(err, upstream.ErrQueueTimeout):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeQueueTimeout, status: http.StatusTooManyRequests, kind: typeOverloaded, code: "queue_timeout",
			message: "all workers are busy and none became free in time; try again later", retryAfter: 1,
		}}
	case errors.Is(err, exchange.ErrIdle):
		return verdict{ending: &ending{outcome: exchange.OutcomeIdle}} // whatever is to be told has been
	case errors.Is(err, exchange.ErrDrained), errors.Is(err, errMoved):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeDrained, status: http.StatusServiceUnavailable, kind: typeUnavailable, code: "worker_stopped",
			message: "the worker was stopped before it answered; try again", retryAfter: 1,
		}}
	case errors.Is(err, exchange.ErrDeadline):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeDeadline, status: http.StatusGatewayTimeout, kind: typeTimeout, code: "deadline_exceeded",
			message: "the request's deadline is over, or too near for an answer",
		}}
	case errors.Is(err, upstream.ErrPoolClosed), errors.Is(err, exchange.ErrShutdown):
		return verdict{ending: &ending{
			outcome: exchange.OutcomeShutdown, status: http.StatusServiceUnavailable, kind: typeUnavailable, code: "shutting_down",
			message: "the server is shutting down", retryAfter: 5,
		}}
	case errors.Is(err, exchange.ErrClientGone), errors.Is(err, context.Canceled):
		return gone()
	default:
		return broken(http.StatusBadGateway, typeUpstreamError, "upstream_failed", "the request could not be passed on")
	}
}

func judgeRequest(e *requestError) verdict {
	v := verdict{ending: &ending{outcome: exchange.OutcomeClientError, status: e.status, kind: typeBadRequest, code: e.code, message: e.text}}
	if e.status == http.StatusUpgradeRequired {
		v.fields = versionFields
	}
	switch e.status {
	case http.StatusNotFound:
		v.outcome, v.kind = exchange.OutcomeNoRoute, typeNotFound
		if e.code == codeUnknownModel { // in OpenAI's very words: programs look for them
			v.kind, v.param = typeInvalid, "model"
		}
	case http.StatusServiceUnavailable:
		v.outcome, v.kind, v.retryAfter = exchange.OutcomeLimited, typeOverloaded, 1
	}
	return v
}

func judgeFailure(f *upstream.Failure) verdict {
	var v verdict
	switch f.Op {
	case upstream.OpCanceled:
		return judge(f.Err)
	case upstream.OpClientBody:
		return judgeBody(f.Err)
	case upstream.OpClientWrite:
		return gone()
	case upstream.OpDial:
		v = broken(http.StatusBadGateway, typeUpstreamError, "connect_failed", "no connection to the worker could be made")
		v.refused = errors.Is(f.Err, syscall.ECONNREFUSED) || errors.Is(f.Err, syscall.ENOENT)
		v.retry = nothingSent(f)
	case upstream.OpStale:
		v = broken(http.StatusBadGateway, typeUpstreamError, "connection_lost", "the worker closed the connection before it answered")
		v.blame = false
		v.retry = nothingSent(f)
	case upstream.OpTimeout:
		v = broken(http.StatusGatewayTimeout, typeTimeout, "upstream_timeout", "the worker did not answer in time")
		v.outcome = exchange.OutcomeUpstreamTimeout
	case upstream.OpMalformed:
		if errors.Is(f.Err, errCoding) {
			return judgeUnreadable()
		}
		v = broken(http.StatusBadGateway, typeUpstreamError, "malformed_answer", "the worker's answer is not valid HTTP")
	case upstream.OpWrite, upstream.OpRead:
		v = broken(http.StatusBadGateway, typeUpstreamError, "connection_lost", "the worker closed the connection before it answered")
		v.retry = nothingSent(f) // it ended between the connection's beginning and the first byte
	default:
		v = broken(http.StatusBadGateway, typeUpstreamError, "upstream_failed", "the request could not be passed on")
	}
	if f.Begun {
		v.outcome = exchange.OutcomeUpstreamBroke
	}
	return v
}

// nothingSent says whether a request can go elsewhere as if nothing had
// happened. A request of which a byte was sent may have been what killed the engine.
func nothingSent(f *upstream.Failure) bool { return !f.Sent && !f.Begun && f.Replayable }

// judgeBody is about a body that could not be read: the connection broke, it
// was cut, or what came was no HTTP.
func judgeBody(err error) verdict {
	if errors.Is(err, upstream.ErrNoWebSocket) {
		return judgeRequest(errWebSocketHTTP2)
	}
	if errors.Is(err, exchange.ErrClientGone) || errors.Is(err, exchange.ErrShutdown) {
		return judge(err)
	}
	if request, ok := errors.AsType[*requestError](err); ok {
		return judgeRequest(request)
	}
	if errors.Is(err, exchange.ErrClientSlow) {
		return verdict{ending: &ending{
			outcome: exchange.OutcomeClientError, status: http.StatusRequestTimeout, kind: typeTimeout, code: "body_timeout",
			message: "the request's body did not arrive in time",
		}}
	}
	return verdict{ending: &ending{
		outcome: exchange.OutcomeClientError, status: http.StatusBadRequest, kind: typeBadRequest, code: "bad_body",
		message: "the request's body is not valid HTTP",
	}}
}

func gone() verdict {
	return verdict{ending: &ending{outcome: exchange.OutcomeClientGone, status: statusClientGone}}
}

func broken(status int, kind, code, message string) verdict {
	return verdict{marks: marks{blame: true}, ending: &ending{
		outcome: exchange.OutcomeUpstreamError, status: status, kind: kind, code: code, message: message,
	}}
}
