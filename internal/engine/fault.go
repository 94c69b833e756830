package engine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fault is the trouble that one request asks for; see the package comment.
type fault struct {
	death    *death
	after    int // tokens before death; 0: at once
	hang     bool
	hangAll  bool
	block    bool
	cut      int // chunks before it; -1: never
	cleanCut int
	errorAt  int // chunks before an error event
	stall    int // chunks before it falls silent
	slow     time.Duration
	status   int
	garbage  bool
	headers  int
	bulk     int
}

// death is how a process ends itself: by a signal, else by exiting.
type death struct {
	signal syscall.Signal
	code   int
}

// errCleanCut leaves the handler without a panic, so that the framing ends cleanly.
var errCleanCut = errors.New("clean cut")

// errEvent has the stream end in an error event.
var errEvent = errors.New("error event")

// claimed says whether a fault that is to happen once, over all engines, is this
// request's: whoever makes the file has it.
func claimed(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // who may ask for faults may end the process
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// faultOf is what the request asks for, nothing unless faults are allowed.
func (e *Engine) faultOf(r *http.Request, b *body) (fault, error) {
	text := r.Header.Get("X-Fault")
	if text == "" {
		text = b.Fault
	}
	if !e.Faults {
		text = ""
	}
	if once, rest, _ := strings.Cut(text, ","); strings.HasPrefix(once, "once=") {
		if text = rest; !claimed(strings.TrimPrefix(once, "once=")) {
			text = ""
		}
	}
	f, err := parseFault(text)
	if err != nil {
		return f, invalid("fault", "fault %q: %v", text, err)
	}
	if e.Faults && b.StructuredOutputs != nil && !hasOutput(b.StructuredOutputs) {
		f.death = &death{}
	}
	return f, nil
}

// outputs are the keys of which vLLM's structured_outputs must have one.
var outputs = []string{"json", "json_object", "regex", "choice", "grammar", "structural_tag"}

// hasOutput: without one, vLLM 0.10.2 to 0.11.0 raised an error in its engine
// core that nothing caught, and its API server exited "cleanly".
func hasOutput(structured map[string]json.RawMessage) bool {
	for _, key := range outputs {
		if _, ok := structured[key]; ok {
			return true
		}
	}
	return false
}

func parseFault(text string) (fault, error) {
	f := fault{cut: -1, cleanCut: -1, errorAt: -1, stall: -1}
	for item := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		if err := f.set(name, value); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *fault) set(name, value string) (err error) {
	switch name {
	case "":
	case "exit":
		f.death = &death{}
		f.death.code, err = number(value, 0, 255)
	case "kill":
		f.death = &death{signal: syscall.SIGKILL}
	case "abort":
		f.death = &death{signal: syscall.SIGABRT}
	case "after":
		f.after, err = number(value, 1, maxTokens)
	case "hang":
		f.hang = true
	case "hang-all":
		f.hangAll = true
	case "block":
		f.block = true
	case "cut":
		f.cut, err = number(value, 0, maxBody)
	case "clean-cut":
		f.cleanCut, err = number(value, 0, maxBody)
	case "error":
		f.errorAt, err = number(value, 0, maxBody)
	case "stall":
		f.stall, err = number(value, 0, maxBody)
	case "slow":
		if f.slow = time.Second; value != "" {
			f.slow, err = time.ParseDuration(value)
		}
	case "status":
		f.status, err = number(value, 400, 599)
	case "garbage":
		f.garbage = true
	case "headers":
		if f.headers = 1 << 20; value != "" {
			f.headers, err = number(value, 1, maxBody)
		}
	case "bulk":
		f.bulk, err = number(value, 1, maxBulk)
	default:
		err = errors.New("unknown; the engine's documentation lists them")
	}
	return err
}

func number(text string, low, high int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, errors.New("want a number from " + strconv.Itoa(low) + " to " + strconv.Itoa(high))
	}
	return n, nil
}

// first does what a fault does before any generation. It returns true when that
// was the answer.
func (e *Engine) first(w http.ResponseWriter, r *http.Request, f fault) (answered bool) {
	if f.hangAll {
		e.hangAll()
		f.hang = true
	}
	if f.block {
		e.hangAll()
		e.block.Do(func() { close(e.blocked) })
		f.hang = true
	}
	switch {
	case f.death != nil && f.after == 0:
		e.die(*f.death)
	case f.hang:
		<-r.Context().Done()
		return true
	case f.status != 0:
		(&refusal{status: f.status, message: "this is the fault that you asked for", kind: "fault"}).send(w)
		return true
	case f.garbage:
		garble(w)
		return true
	}
	if f.headers > 0 {
		w.Header().Set("X-Large", strings.Repeat("x", f.headers))
	}
	if f.bulk > 0 {
		gush(w, f.bulk)
		return true
	}
	return false
}

// maxBulk bounds what bulk may ask for, in bytes.
const maxBulk = 1 << 30

// nothing is an event that says nothing, made once: what is asked for is bytes, not work.
var nothing = []byte("data: {\"text\":\"" + strings.Repeat("x", 32<<10) + "\"}\n\n")

// gush sends events of so many bytes together at least.
func gush(w http.ResponseWriter, size int) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	for sent := 0; sent < size; sent += len(nothing) {
		if _, err := w.Write(nothing); err != nil {
			return
		}
	}
	_, _ = w.Write([]byte("data: [DONE]\n\n"))
}

// garble answers with something that no HTTP client takes for an answer.
func garble(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte("\x16\x03\x01 220 this is no HTTP\n\x00\xff\xfe\r\n\r\n"))
	_ = conn.Close()
}

// beforeChunk is called before each event of a stream with the number of those sent.
func (f fault) beforeChunk(ctx context.Context, sent int) error {
	if f.cut >= 0 && sent >= f.cut {
		panic(http.ErrAbortHandler) // net/http then closes the connection without ending the framing
	}
	if f.cleanCut >= 0 && sent >= f.cleanCut {
		return errCleanCut
	}
	if f.errorAt >= 0 && sent >= f.errorAt {
		return errEvent
	}
	if f.stall >= 0 && sent >= f.stall {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.slow > 0 && !sleep(ctx, f.slow) {
		return ctx.Err()
	}
	return nil
}

// afterTokens is called whenever there are more tokens.
func (e *Engine) afterTokens(f fault, made int) {
	if f.death != nil && made >= f.after {
		e.die(*f.death)
	}
}
