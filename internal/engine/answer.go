package engine

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// complete handles a completion of either form.
func (e *Engine) complete(f form) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		entry := e.stats.seen(r.Header.Get("X-Request-Id"))
		ended := failed
		tokens := 0
		// Also when a fault panics. A client that has its whole answer may be gone too.
		defer func() {
			if ended == failed && r.Context().Err() != nil {
				ended = aborted
			}
			e.stats.end(entry, ended, tokens)
		}()

		j, err := e.read(w, r, f)
		if err != nil {
			refused, ok := errors.AsType[*refusal](err)
			if !ok {
				refused = &refusal{status: http.StatusInternalServerError, message: err.Error(), kind: "server_error"}
			}
			refused.send(w)
			return
		}
		if e.first(w, r, j.fault) {
			return
		}
		place := e.batch.join(j.promptTokens, j.story.tokens)
		defer func() {
			tokens = e.batch.leave(place)
			e.stats.add(j.promptTokens, tokens)
		}()
		if j.stream {
			err = e.stream(w, r, j, place)
		} else {
			err = e.whole(w, r, j, place)
		}
		if err == nil {
			ended = outcome(j.story.finish)
		}
	}
}

func (j *job) start() answer {
	var random [12]byte
	_, _ = rand.Read(random[:])
	return answer{
		ID: j.form.idPrefix + hex.EncodeToString(random[:]), Object: j.form.object,
		Created: time.Now().Unix(), Model: j.model, Choices: []any{},
	}
}

// whole sends a unary answer once everything is generated.
func (e *Engine) whole(w http.ResponseWriter, r *http.Request, j *job, place *sequence) error {
	for made := 0; made < j.story.tokens; {
		var err error
		if made, err = e.batch.await(r.Context(), place, made); err != nil {
			return err
		}
		e.afterTokens(j.fault, made)
	}
	a := j.start()
	a.Choices = []any{j.form.choice(strings.Join(j.story.pieces, ""), j.story.finish, false)}
	a.Usage = j.usage()
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if n := j.fault.cleanCut; n >= 0 {
		data = data[:min(n, len(data))]
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if n := j.fault.cut; n >= 0 {
		_, _ = w.Write(data[:min(n, len(data))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if _, err = w.Write(data); err == nil && j.fault.cleanCut >= 0 {
		err = errCleanCut
	}
	return err
}

// stream sends the answer as server-sent events. The head goes out at once, as
// vLLM's does, and says nothing about the answer yet.
func (e *Engine) stream(w http.ResponseWriter, r *http.Request, j *job, place *sequence) error {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	s := newEvents(w, r, j)
	if err := s.flush(); err != nil {
		return err
	}
	err := s.tokens(e, place)
	if err == nil {
		err = s.finish()
	}
	if errors.Is(err, errEvent) { // as vLLM says that its engine is dead
		_ = s.write(`{"error":{"message":"this is the fault that you asked for","type":"InternalServerError","param":null,"code":500}}`)
	}
	return err
}

// events writes one stream.
type events struct {
	w      http.ResponseWriter
	r      *http.Request
	job    *job
	answer answer
	sent   int
}

func newEvents(w http.ResponseWriter, r *http.Request, j *job) *events {
	s := &events{w: w, r: r, job: j, answer: j.start()}
	s.answer.Object = j.form.chunkObject
	if j.includeUsage {
		s.answer.Usage = (*usage)(nil) // null, not left out
	}
	return s
}

// tokens sends an event for each token, as the batch makes them.
func (s *events) tokens(e *Engine, place *sequence) error {
	ctx, pieces := s.r.Context(), s.job.story.pieces
	for made, next := 0, 0; made < s.job.story.tokens; {
		var err error
		first := made == 0
		if made, err = e.batch.await(ctx, place, made); err != nil {
			return err
		}
		if first && s.job.form.opens {
			if err := s.send(openingChoice()); err != nil {
				return err
			}
		}
		for ; next < min(made, len(pieces)); next++ {
			if err := s.send(s.job.form.choice(pieces[next], "", true)); err != nil {
				return err
			}
		}
		e.afterTokens(s.job.fault, made)
	}
	return nil
}

// finish sends the reason, the usage where asked for, and [DONE].
func (s *events) finish() error {
	if err := s.send(s.job.form.choice("", s.job.story.finish, true)); err != nil {
		return err
	}
	if s.job.includeUsage {
		s.answer.Usage = s.job.usage()
		if err := s.send(); err != nil {
			return err
		}
	}
	if err := s.job.fault.beforeChunk(s.r.Context(), s.sent); err != nil {
		return err
	}
	return s.write("[DONE]")
}

func (s *events) send(choices ...any) error {
	if err := s.job.fault.beforeChunk(s.r.Context(), s.sent); err != nil {
		return err
	}
	s.answer.Choices = append([]any{}, choices...)
	data, err := json.Marshal(s.answer)
	if err != nil {
		return err
	}
	return s.write(string(data))
}

func (s *events) write(data string) error {
	if _, err := s.w.Write([]byte("data: " + data + "\n\n")); err != nil {
		return err
	}
	s.sent++
	return s.flush()
}

func (s *events) flush() error { return http.NewResponseController(s.w).Flush() }

func sendJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
