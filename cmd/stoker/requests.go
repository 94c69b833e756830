package main

import (
	"encoding/json"
	"net/http"

	"stoker/balancer/recorder"
	"stoker/config"
)

// newRecorder is what a configuration says of the flight recorder; nil where it is off.
func newRecorder(c *config.Recorder) (*recorder.Recorder, error) {
	if !c.Enabled {
		return nil, nil //nolint:nilnil // a nil recorder is one that records nothing
	}
	secrets, err := recorder.NewRedactor(c.RedactFields, c.RedactPatterns)
	if err != nil {
		return nil, err
	}
	return recorder.New(recorder.Options{
		Keep: c.Keep, BodyLimit: c.BodyKiB << 10, Memory: int64(c.MemoryMiB) << 20, Redactor: secrets,
	})
}

// recorded is the document of GET /requests and "stoker requests --json".
type recorded struct {
	// PID and Generation are of the master that answers: earlier generations may have recorded them.
	PID        int                 `json:"pid"`
	Generation int                 `json:"generation"`
	Requests   []recorder.Exchange `json:"requests"`
}

// answerRequests is GET /requests[?worker=NAME][&id=ID][&bodies=no][&format=har].
// What people have asked an engine is for the operator alone: the TCP listener
// does not answer this one.
func (m *master) answerRequests(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	format := query.Get("format")
	switch {
	case !fromSocket(r):
		writeJSON(w, http.StatusForbidden, outcome{Error: "recorded requests are shown on the admin socket in the run directory only"})
		return
	case m.recorder == nil:
		writeJSON(w, http.StatusConflict, outcome{Error: "the recorder is off: recorder.enabled = false"})
		return
	case format != "" && format != "json" && format != "har":
		writeJSON(w, http.StatusBadRequest, outcome{Error: "format is json or har"})
		return
	}
	m.elder.awaitRecorded(r.Context())
	found := m.recorder.Exchanges(recorder.Filter{Worker: query.Get("worker"), ID: query.Get("id"), Bodies: query.Get("bodies") != "no"})
	if format == "har" {
		writeJSON(w, http.StatusOK, recorder.HAR(version, found))
		return
	}
	if found == nil {
		found = []recorder.Exchange{}
	}
	writeJSON(w, http.StatusOK, recorded{PID: m.status().PID, Generation: m.inherit.generation(), Requests: found})
}

// errorOf is the error that an answer of the admin socket holds.
func errorOf(body []byte) string {
	var o outcome
	if json.Unmarshal(body, &o) != nil || o.Error == "" {
		return string(body)
	}
	return o.Error
}
