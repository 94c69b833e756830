package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/balancer/quarantine"
	"stoker/config"
)

// newCourt is what a configuration says of the quarantine; nil where it is off.
func newCourt(cfg *config.Config, log hclog.Logger, r prometheus.Registerer) *quarantine.Court {
	metrics := quarantine.NewMetrics(r)
	if !cfg.Quarantine.Enabled {
		return nil
	}
	command := "stoker quarantine lift"
	if cfg.RunDir != config.DefaultRunDir() {
		command += " --run-dir " + cfg.RunDir
	}
	return quarantine.New(quarantine.Options{
		TTL: cfg.Quarantine.TTL.Std(), Log: log.Named("quarantine"), Metrics: metrics, Lift: command,
	})
}

// quarantined is the document of GET /quarantine and "stoker quarantine --json",
// and of what is lifted or added.
type quarantined struct {
	Convictions []quarantine.Conviction `json:"convictions"`
	// Suspicions is how many deaths have suspects that nobody has convicted or freed.
	Suspicions int `json:"suspicions"`
}

// liftOrder names what is lifted.
type liftOrder struct {
	// ID of a conviction, or its beginning.
	ID string `json:"id"`
}

// addOrder names a request that is to be refused.
type addOrder struct {
	Pool   string `json:"pool"`
	Method string `json:"method"`
	Target string `json:"target"`
	Body   string `json:"body"`
	// Schema: refuse every request with the same schema fields instead.
	Schema bool `json:"schema"`
	// TTL ("24h"); empty: quarantine.ttl.
	TTL string `json:"ttl"`
}

// mayQuarantine refuses whoever is not on the socket, or where the quarantine is off.
func (m *master) mayQuarantine(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case !fromSocket(r):
		writeJSON(w, http.StatusForbidden, outcome{Error: "the quarantine is shown and changed on the admin socket in the run directory only"})
	case m.court == nil:
		writeJSON(w, http.StatusConflict, outcome{Error: "the quarantine is off: quarantine.enabled = false"})
	default:
		return true
	}
	return false
}

func (m *master) answerQuarantine(w http.ResponseWriter, r *http.Request) {
	if m.mayQuarantine(w, r) {
		writeJSON(w, http.StatusOK, quarantined{Convictions: m.court.List(), Suspicions: m.court.Suspicions()})
	}
}

// maxAdded bounds the order to refuse a request, with its body.
const maxAdded = 64 << 20

// readOrder reads an order, or answers why not.
func readOrder(w http.ResponseWriter, r *http.Request, o any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdded))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(o); err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Error: "read order: " + err.Error()})
		return false
	}
	return true
}

func (m *master) liftQuarantine(w http.ResponseWriter, r *http.Request) {
	var o liftOrder
	if !m.mayQuarantine(w, r) || !readOrder(w, r, &o) {
		return
	}
	lifted := m.court.Lift(o.ID)
	if len(lifted) == 0 {
		writeJSON(w, http.StatusNotFound, outcome{Error: fmt.Sprintf("nothing is quarantined as %q: see stoker quarantine", o.ID)})
		return
	}
	for i := range lifted {
		m.log.Info("quarantine lifted", "quarantine", lifted[i].ID, "pool", lifted[i].Pool, "path", lifted[i].Path)
	}
	writeJSON(w, http.StatusOK, quarantined{Convictions: lifted, Suspicions: m.court.Suspicions()})
}

func (m *master) addQuarantine(w http.ResponseWriter, r *http.Request) {
	var o addOrder
	if !m.mayQuarantine(w, r) || !readOrder(w, r, &o) {
		return
	}
	var ttl time.Duration
	var err error
	pool := m.current.Load().Pool(o.Pool)
	switch {
	case pool == nil || pool.Remote():
		err = fmt.Errorf("%q is no pool of workers; there are %s", o.Pool, strings.Join(workerPools(m.current.Load()), ", "))
	case o.TTL != "":
		ttl, err = time.ParseDuration(o.TTL)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Error: err.Error()})
		return
	}
	kind := quarantine.KindRequest
	if o.Schema {
		kind = quarantine.KindSchema
	}
	path, _, _ := strings.Cut(o.Target, "?")
	added, err := m.court.Add(kind, o.Pool, o.Method, path, quarantine.Of(o.Pool, o.Method, o.Target, []byte(o.Body)), ttl)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Error: err.Error()})
		return
	}
	m.log.Info("quarantined by an operator", "quarantine", added.ID, "kind", added.Kind, "pool", added.Pool, "path", added.Path)
	writeJSON(w, http.StatusOK, quarantined{Convictions: []quarantine.Conviction{added}, Suspicions: m.court.Suspicions()})
}
