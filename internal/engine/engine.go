package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// Engine answers HTTP requests as the package comment tells. It is an
// http.Handler; it can also live inside a test, without a process of its own.
type Engine struct {
	Options
	pid    int
	daemon int
	stats  *stats
	batch  *batch
	mux    *http.ServeMux
	// die ends the process; it returns only in tests.
	die func(death)

	born   time.Time
	frozen chan struct{} // closed by the fault hang-all
	freeze sync.Once
	// blocked is closed by the fault block.
	blocked chan struct{}
	block   sync.Once

	stop context.CancelFunc
	runs sync.WaitGroup
}

// New starts an engine. Close ends it.
func New(o Options) *Engine {
	o = o.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	e := &Engine{
		Options: o,
		pid:     os.Getpid(),
		stats:   newStats(),
		batch:   newBatch(o.Slots, o.PrefillRate, o.DecodeRate),
		mux:     http.NewServeMux(),
		die:     death.die,
		born:    time.Now(),
		frozen:  make(chan struct{}),
		blocked: make(chan struct{}),
		stop:    stop,
	}
	e.routes()
	e.runs.Go(func() { e.batch.run(ctx) })
	return e
}

// Close ends the engine's clock. Requests that still run get no more tokens: end
// the HTTP server first.
func (e *Engine) Close() {
	e.stop()
	e.runs.Wait()
}

func (e *Engine) routes() {
	e.mux.HandleFunc("/health", only(http.MethodGet, e.health))
	e.mux.HandleFunc("/metrics", only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(e.metrics())
	}))
	e.mux.HandleFunc("/stats", only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, http.StatusOK, e.Stats())
	}))
	e.mux.HandleFunc("/v1/models", only(http.MethodGet, e.loaded(e.models)))
	e.mux.HandleFunc("/v1/chat/completions", only(http.MethodPost, e.loaded(e.complete(chatForm))))
	e.mux.HandleFunc("/v1/completions", only(http.MethodPost, e.loaded(e.complete(plainForm))))
	e.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&refusal{
			status: http.StatusNotFound, kind: "invalid_request_error",
			message: fmt.Sprintf("there is nothing at %s %s", r.Method, r.URL.Path),
		}).send(w)
	})
}

// ServeHTTP answers one request.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.isBlocked() {
		wait(r)
		return
	}
	w.Header().Set("X-Engine", fmt.Sprintf("%s/%d", e.Name, e.pid))
	if id := r.Header.Get("X-Request-Id"); id != "" {
		w.Header().Set("X-Request-Id", id)
	}
	e.mux.ServeHTTP(w, r)
}

// only lets one method through, and HEAD with GET.
func only(method string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == method || method == http.MethodGet && r.Method == http.MethodHead {
			next(w, r)
			return
		}
		w.Header().Set("Allow", method)
		(&refusal{
			status: http.StatusMethodNotAllowed, kind: "invalid_request_error", code: "method_not_allowed",
			message: fmt.Sprintf("%s is not allowed at %s; use %s", r.Method, r.URL.Path, method),
		}).send(w)
	}
}

// loaded refuses requests while the model loads, and keeps them for ever after hang-all.
func (e *Engine) loaded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !e.isLoaded() {
			w.Header().Set("Retry-After", "1")
			(&refusal{status: http.StatusServiceUnavailable, kind: "unavailable_error", message: "loading model"}).send(w)
			return
		}
		select {
		case <-e.frozen:
			wait(r)
		default:
			next(w, r)
		}
	}
}

// wait is until the client has gone, which net/http notices only once the body is read.
func wait(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func (e *Engine) isLoaded() bool { return !e.NeverReady && time.Since(e.born) >= e.LoadTime }

// hangAll makes all requests hang, those that run included.
func (e *Engine) hangAll() {
	e.freeze.Do(func() { close(e.frozen) })
	e.batch.freeze()
}

func (e *Engine) isBlocked() bool {
	select {
	case <-e.blocked:
		return true
	default:
		return false
	}
}

func (e *Engine) health(w http.ResponseWriter, r *http.Request) {
	if !e.isLoaded() {
		sendJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "loading model"})
		return
	}
	if e.HealthQueued {
		place := e.batch.join(0, 1)
		defer e.batch.leave(place)
		if _, err := e.batch.await(r.Context(), place, 0); err != nil {
			return
		}
	}
	sendJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (e *Engine) models(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{
		"id": e.Model, "object": "model", "created": e.born.Unix(), "owned_by": "stoker",
	}}})
}
