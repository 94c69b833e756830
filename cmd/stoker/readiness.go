package main

import (
	"encoding/json"
	"net/http"
	"strings"

	"stoker/exchange"
	"stoker/internal/http1"
)

// readiness is what outside balancers are told, on the admin listener and, with
// readiness_path, on the traffic listeners.
type readiness struct {
	// Status is healthy, degraded, unavailable or shutting_down.
	Status string `json:"status"`
	// AcceptingTraffic is false once requests should go elsewhere.
	AcceptingTraffic bool `json:"accepting_traffic"`
	// Ready of Workers take requests, servers included.
	Ready   int `json:"ready"`
	Workers int `json:"workers"`
}

// The words of readiness.Status.
const (
	statusHealthy      = "healthy"
	statusDegraded     = "degraded"
	statusUnavailable  = "unavailable"
	statusShuttingDown = "shutting_down"
)

// readiness is the one truth about it. Until every pool has been ready once the
// whole is not: a host that joins a balancer too early would refuse what others
// could serve. From then on it serves as long as anything of it does.
func (m *master) readiness() readiness {
	ready, total := m.sup.Ready()
	r := readiness{Ready: ready, Workers: total}
	if m.succeeded.Load() || m.state() == stateReady {
		m.began.Store(true)
	}
	switch {
	case m.now() != serving && !m.succeeded.Load():
		r.Status = statusShuttingDown
	case ready == 0 || !m.began.Load():
		r.Status = statusUnavailable
	case ready < total:
		r.Status = statusDegraded
	default:
		r.Status = statusHealthy
	}
	r.AcceptingTraffic = r.Status == statusHealthy || r.Status == statusDegraded
	return r
}

// code is the readiness as HTTP says it.
func (r readiness) code() int {
	if r.AcceptingTraffic {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func (m *master) answerReady(w http.ResponseWriter, _ *http.Request) {
	r := m.readiness()
	writeJSON(w, r.code(), r)
}

// porter stands before the balancer and answers who only asks how things are:
// no pool sees that, so it is answered while all of them are full.
type porter struct{ m *master }

func (p porter) answers(x *exchange.Exchange) bool {
	if path := p.m.current.Load().ReadinessPath; path == "" || !asks(x.Request.Target, path) {
		return false
	}
	x.Record.Own = true
	if err := p.answer(x); err != nil {
		x.Sink.Break(err)
	}
	return true
}

// asks says whether a target is the path, with a query or without.
func asks(target, path string) bool {
	rest, here := strings.CutPrefix(target, path)
	return here && (rest == "" || rest[0] == '?')
}

func (p porter) answer(x *exchange.Exchange) error {
	fields := http1.Fields{{Name: "Content-Type", Value: "application/json"}, {Name: "Cache-Control", Value: "no-store"}}
	method := x.Request.Method
	if method != http.MethodGet && method != http.MethodHead {
		fields = append(fields, http1.Field{Name: "Allow", Value: "GET, HEAD"})
		return send(x, http.StatusMethodNotAllowed, fields, []byte(`{"error":{"message":"only GET and HEAD here","type":"bad_request","code":"method_not_allowed"}}`+"\n"))
	}
	r := p.m.readiness()
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return send(x, r.code(), fields, append(body, '\n'))
}

// send answers x with a body that is there.
func send(x *exchange.Exchange, status int, fields http1.Fields, body []byte) error {
	if err := x.Sink.Head(&http1.Response{Status: status, Fields: fields}, int64(len(body))); err != nil {
		return err
	}
	if x.Request.Method != http.MethodHead {
		if _, err := x.Sink.Write(body); err != nil {
			return err
		}
	}
	return x.Sink.End(nil)
}
