package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"stoker/supervisor/keeper"
)

// ExitStatus is how a worker's last engine ended, for people and programs.
type ExitStatus struct {
	// Code is the exit code; -1 when a signal ended it, it never ran, or nobody knows.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it ("SIGKILL"), else empty.
	Signal string `json:"signal,omitempty"`
	// Forced: it, or what was left of its tree, had to be killed.
	Forced bool `json:"forced,omitempty"`
	// Text says it in words.
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// newExitStatus translates a keeper's words; nil when the keeper had no chance
// to see the end.
func newExitStatus(x *keeper.Exit) *ExitStatus {
	if x == nil {
		return &ExitStatus{Code: -1, Text: describeExit(nil), At: time.Now()}
	}
	s := &ExitStatus{Code: x.Code, Forced: x.Forced, Text: describeExit(x), At: x.At}
	if x.Signal != 0 {
		s.Signal = unix.SignalName(syscall.Signal(x.Signal))
	}
	return s
}

// describeExit says how an engine ended, as the end of "the engine …".
func describeExit(x *keeper.Exit) string {
	switch {
	case x == nil:
		return "ended unseen, since its keeper was killed"
	case x.Error != "":
		return "could not be executed: " + x.Error
	case x.Signal == 0:
		return fmt.Sprintf("exited with code %d", x.Code)
	}
	text := "killed by " + unix.SignalName(syscall.Signal(x.Signal))
	switch {
	case x.Core:
		text += ", core dumped"
	case x.Forced:
		text += " after it had not ended in time"
	case x.Signal == int(syscall.SIGKILL):
		text += ", perhaps out of memory"
	}
	return text
}

// exitCause is the cause of an exit that nobody wished.
func exitCause(x *keeper.Exit) cause {
	why := cause{reason: reasonExited, text: describeExit(x)}
	switch {
	case x == nil:
		why.reason = reasonKeeperLost
	case x.Error != "":
		why.reason = reasonNotExecuted
	case x.Signal != 0:
		why.reason = reasonSignaled
	}
	return why
}

func keeperLostCause() cause {
	return cause{reason: reasonKeeperLost, text: "its keeper was killed, so what was left of it was ended"}
}

func wished() cause { return cause{reason: reasonWish, text: "as was wished"} }

// settle reads an ended engine's last will, lets its keeper go and decides
// what comes next.
func (w *worker) settle() (State, cause) {
	facts := w.engine.State()
	var tail []byte
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if w.why.reason.failure() {
		tail, _ = w.engine.Tail(ctx) // without it the line is shorter, nothing worse
		w.epitaph = w.voices.died(ctx, w.name, tail, timeOfExit(facts.Exit), w.failures == 0)
	}
	if err := w.engine.Ack(ctx); err != nil {
		w.log.Debug("keeper did not hear that its report was read", "worker", w.name, "error", err)
	}
	return w.bury(facts, facts.Exit, tail)
}

// timeOfExit is when an engine has ended, as far as anybody knows.
func timeOfExit(x *keeper.Exit) time.Time {
	if x == nil {
		return time.Now()
	}
	return x.At
}

// orphanGrace is what an engine gets that nobody reads the output of any more:
// enough to clean up after itself, not to finish its requests.
const orphanGrace = 2 * time.Second

// endOrphan ends the tree of an engine whose keeper was killed.
func (w *worker) endOrphan() (State, cause) {
	report, err := w.sweep()
	if errors.Is(err, keeper.ErrBusy) {
		// Only the connection broke. Starting looks at the slot before all else.
		_ = w.release()
		w.unsure = true
		return Starting, cause{reason: reasonKeeperLost, text: "its keeper lives on: attach again"}
	}
	facts := w.engine.State()
	if err != nil {
		_ = w.release()
		w.stuck = true
		return Failed, cause{
			reason: reasonKeeperLost,
			text:   "its keeper was killed, and its processes could not be ended: " + err.Error(),
			details: []any{
				"engine_pid", facts.EnginePID, "keeper_dir", w.place.KeeperDir(),
				"advice", "end what is left of it by hand, then restart the worker",
			},
		}
	}
	if report.Exit != nil {
		return w.bury(facts, report.Exit, report.Tail)
	}
	return w.bury(facts, facts.Exit, nil)
}

// sweep ends what a dead keeper left in the slot.
func (w *worker) sweep() (report *keeper.Report, err error) {
	dir, grace := w.place.KeeperDir(), min(orphanGrace, w.pool.Stop.Grace.Std())
	if w.hurried {
		grace = 0
	}
	err = w.await(sweepLimit, false, func(ctx context.Context) (err error) {
		report, err = w.keepers.EndOrphan(ctx, dir, grace)
		return err
	})
	return report, err
}

// bury forgets an engine of which nothing is left.
func (w *worker) bury(facts keeper.State, exit *keeper.Exit, tail []byte) (State, cause) {
	_ = w.engine.Close()
	w.engine, w.adopted = nil, false
	w.place.Vacate()
	w.used = w.used || facts.EnginePID != 0
	w.lastExit = newExitStatus(exit)
	why := w.why
	if why.reason == reasonUnhealthy && w.endedByItself(exit) || why.reason == reasonHung && exit != nil && exit.At.Before(w.since) {
		found := why.text
		why = exitCause(exit)
		why.details = append(why.details, "noticed", found)
	}
	if why.reason.failure() && !strings.Contains(why.text, w.lastExit.Text) && exit != nil {
		why.details = append(why.details, "exit", w.lastExit.Text)
	}
	if !facts.StartedAt.IsZero() {
		why.details = append(why.details, "uptime", readable(w.lastExit.At.Sub(facts.StartedAt)))
	}
	// Also where a stop was wished meanwhile: it had died before anybody told it to.
	why.details = append(why.details, w.mourn(facts, why, tail)...)
	if w.wish != wishRun {
		w.stopForced = exit != nil && exit.Forced || exit == nil
		next, _ := w.leave()
		return next, cause{reason: reasonWish, text: "as was wished", details: []any{"exit", w.lastExit.Text}}
	}
	return w.afterDeath(why, exit, tail)
}

// endedByItself says whether an engine was dead or dying before it was told to
// stop: one that is killed closes its socket first, so that a refused connection
// may be noticed before its keeper tells of the exit, which explains more.
func (w *worker) endedByItself(exit *keeper.Exit) bool {
	if exit == nil || exit.Forced {
		return false
	}
	return exit.At.Before(w.since) || exit.Signal != 0 && exit.Signal != int(w.stopSignal)
}

// notStarted is the end of an attempt that came to no engine.
func (w *worker) notStarted(err error) (State, cause) {
	w.place.Vacate()
	return w.afterDeath(cause{reason: reasonNotStarted, text: "could not be started: " + err.Error()}, nil, nil)
}

// afterDeath decides whether and when the slot starts again, and says so.
func (w *worker) afterDeath(why cause, exit *keeper.Exit, tail []byte) (State, cause) {
	w.again, w.resumeAt = why.reason, time.Now()
	if !why.reason.failure() {
		return Backoff, why
	}
	w.failures = failuresAfter(w.failures, w.readyFor, w.pool.Restart.ResetAfter.Std())
	w.readyFor = 0
	d := decideRestart(w.pool.Restart, w.failures, w.luck())
	w.resumeAt = w.resumeAt.Add(d.delay)
	why.details = append(why.details, "next", d.reason)
	if words := w.newWords(tail); words != "" {
		why.details = append(why.details, "output", words)
	}
	if text := advice(why.reason, exit, w.pool.Command); text != "" && (!w.epitaph.unseen || text != seeOutput) {
		why.details = append(why.details, "advice", text)
	}
	if !d.restart {
		return Failed, why
	}
	return Backoff, why
}

// Bounds of what a death's line repeats of the engine's output. All of it is in
// the log already, with the worker's name before each line, or in the report;
// these few words save the search, and in a crash loop they must not fill the disk.
const (
	firstWords = 400
	laterWords = 120
)

// newWords is the end of an engine's output, unless the engine that died before said
// the same; of what another worker's has just said, that it did.
func (w *worker) newWords(tail []byte) string {
	limit := laterWords
	if w.failures <= 1 {
		limit = firstWords
	}
	gist := gistOf(tail)
	if gist == w.lastWords {
		return ""
	}
	w.lastWords = gist
	if w.epitaph.unseen && w.epitaph.like != "" {
		return "the same as that of " + w.epitaph.like
	}
	return lastLines(string(tail), 4, limit)
}

// lastLines joins the last lines of a text into one of at most limit bytes or so.
func lastLines(text string, count, limit int) string {
	var kept []string
	size := 0
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := len(lines) - 1; i >= 0 && len(kept) < count && size < limit; i-- {
		line := shorten(printable(lines[i]), limit-size)
		if line == "" {
			continue
		}
		kept = append([]string{line}, kept...)
		size += len(line)
	}
	return strings.Join(kept, " | ")
}

// printable drops what would trouble a terminal: colours, carriage returns.
func printable(text string) string {
	text = strings.ToValidUTF8(text, "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		default:
			return -1
		}
	}, text))
}

// shorten cuts text to some limit bytes, at a whole character.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// seeOutput is the advice where nothing better is known, and the output was shown.
const seeOutput = "see its output above"

// advice says what a person can do about a death; empty when the cause says it.
func advice(r reason, exit *keeper.Exit, command []string) string {
	switch r {
	case reasonNotExecuted:
		return execAdvice(exit.Error, command)
	case reasonExited:
		if exit != nil && exit.Code == 0 {
			return "an engine is to run until it is stopped: pools.command must not end or go to the background"
		}
		return seeOutput
	case reasonSignaled:
		if exit != nil && exit.Signal == int(syscall.SIGKILL) {
			return "if nobody killed it: dmesg names what the kernel killed for memory"
		}
		return seeOutput
	case reasonStartTimeout:
		return "raise pools.start_timeout, or check pools.health.path and that the command listens on {socket} or {port}"
	case reasonHung:
		return "where it was only at work: raise pools.health.failures or timeout (probes), or stall_timeout (canaries); pools.stop.hung_signal = \"ABRT\" has many engines print where they hang"
	case reasonProgress, reasonWish, reasonChanged, reasonSettings, reasonNotStarted, reasonKeeperLost, reasonUnhealthy:
	}
	return ""
}

// execAdvice says what to do about an exec that failed.
func execAdvice(text string, command []string) string {
	name := "the command"
	if len(command) > 0 {
		name = command[0]
	}
	switch {
	case strings.Contains(text, "chdir"):
		return "working directory not usable: check pools.dir"
	case strings.Contains(text, "permission denied"):
		return fmt.Sprintf("%s is not executable for the engine's user: check pools.command and pools.user", name)
	case strings.Contains(text, "interpreter or loader is missing"):
		return name + " is there, what its first line (#!) or its program header names is not: install that, or correct the line"
	case strings.Contains(text, "exec format error"):
		return name + " is no program for this machine: check pools.command; a script needs a first line such as #!/bin/sh"
	case strings.Contains(text, "not found"), strings.Contains(text, "no such file"):
		if filepath.IsAbs(name) {
			return fmt.Sprintf("command not found: %s; check pools.command, and the interpreter that the file names", name)
		}
		return fmt.Sprintf("command not found: %s; check pools.command and PATH", name)
	default:
		return "check pools.command"
	}
}
