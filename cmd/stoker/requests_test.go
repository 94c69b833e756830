package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"stoker/balancer/recorder"
	"stoker/config"
)

// TestRequestsAreForTheOperator: what users have asked is not shown over TCP.
func TestRequestsAreForTheOperator(t *testing.T) {
	kept, err := newRecorder(&config.Default().Recorder)
	if err != nil || kept == nil {
		t.Fatal(kept, err)
	}
	w := httptest.NewRecorder()
	(&master{recorder: kept}).answerRequests(w, httptest.NewRequest(http.MethodGet, "/requests", nil))
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "admin socket") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestRequestsCannotSpeakToTheTerminal: what clients and engines wrote is shown, not obeyed.
func TestRequestsCannotSpeakToTheTerminal(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	all := []recorder.Exchange{{
		ID: "x\x1b[2J", Start: start, Worker: "p-0", Attempts: []recorder.Attempt{{Worker: "p-0", Start: start}},
		Request:  recorder.Request{Method: "POST", Target: "/\u009b2J", Body: recorder.Body{Size: 4, Head: "\x1b]0;"}},
		Response: &recorder.Response{Status: 200, Body: recorder.Body{Size: 900, Head: "head\n", Tail: "tail", Omitted: 891}},
	}}
	var b strings.Builder
	if err := printRequestTable(&b, all, start.Add(1500*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if line := strings.Fields(strings.Split(b.String(), "\n")[1]); strings.Join(line[1:], " ") != "x\ufffd[2J p-0 POST /\ufffd2J 4 200 900 - 1.5s in flight" {
		t.Errorf("%q", line)
	}
	if err := printRequests(&b, all); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); strings.ContainsAny(text, "\x1b\u009b") || !strings.Contains(text, "head\n\n… 891 of 900 bytes were not kept …\ntail\n") {
		t.Errorf("%q", text)
	}
}
