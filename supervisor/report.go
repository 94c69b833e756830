package supervisor

import (
	"fmt"
	"strings"
	"time"
)

// Report says how an operation went, for people and programs.
type Report struct {
	// Members are the workers and servers that it was about, in order.
	Members []MemberReport `json:"members"`
	// Seconds that all of it took.
	Seconds float64 `json:"seconds"`
}

// MemberReport says how it went for one worker or server.
type MemberReport struct {
	Pool string `json:"pool"`
	Name string `json:"name"`
	// State that it was left in.
	State string `json:"state"`
	// PID of its engine now, 0 when none runs.
	PID int `json:"pid,omitempty"`
	// DrainSeconds is how long its requests took to finish.
	DrainSeconds float64 `json:"drain_seconds,omitempty"`
	// RequestsCut did not finish in time.
	RequestsCut int `json:"requests_cut,omitempty"`
	// Exit is how the engine ended that was stopped; null when none was.
	Exit *ExitStatus `json:"exit,omitempty"`
	// Text says it in words.
	Text string `json:"text"`
	// Error is why what was asked was not reached; empty when it was.
	Error string `json:"error,omitempty"`
}

// Failed are the members for which it did not go as asked.
func (r *Report) Failed() []MemberReport {
	var failed []MemberReport
	for _, m := range r.Members {
		if m.Error != "" {
			failed = append(failed, m)
		}
	}
	return failed
}

// UnknownNameError says that nothing is called so.
type UnknownNameError struct {
	Name string
	// Known are the names there are, pools first.
	Known []string
}

func (e *UnknownNameError) Error() string {
	return fmt.Sprintf("nothing is called %q; there are %s", e.Name, strings.Join(e.Known, ", "))
}

// report begins the report on a post, from what is known of its worker.
func (q *post) report(w *worker) MemberReport {
	if w == nil {
		return MemberReport{Pool: q.pool.name, Name: q.name, State: string(Stopped)}
	}
	facts := w.published.Load()
	return MemberReport{Pool: q.pool.name, Name: q.name, State: string(facts.state), PID: facts.pid}
}

// stopped says how a worker's stop went. ran: it had an engine when it was asked.
func (m *MemberReport) stopped(facts *snapshot, ran bool, took time.Duration) {
	switch {
	case facts.stuck:
		m.Error = "its processes could not be ended: " + facts.why.text
		m.Text = "not stopped"
		return
	case facts.state != Stopped && (facts.state != Failed || ran):
		m.Error = "it is " + string(facts.state) + ": " + facts.why.text
		m.Text = "not stopped"
		return
	case !ran:
		m.Text = "nothing was running"
		return
	}
	m.DrainSeconds, m.RequestsCut, m.Exit = facts.drained.Seconds(), facts.cut, facts.lastExit
	words := []string{"stopped after " + readable(took)}
	switch {
	case facts.cut > 0:
		words = append(words, fmt.Sprintf("%d requests did not finish and were cut", facts.cut))
	case facts.drained > 0:
		words = append(words, "all requests had finished")
	}
	if facts.lastExit != nil {
		words = append(words, "the engine "+facts.lastExit.Text)
	}
	m.Text = strings.Join(words, ", ")
}
