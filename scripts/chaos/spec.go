package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"stoker/internal/engine"
)

// what a request asks for.
type what string

const (
	item       what = "item"
	stream     what = "stream"
	digest     what = "digest" // an upload of known length
	chunked    what = "chunked"
	completion what = "completion"
	tokens     what = "tokens" // a completion, streamed
	silent     what = "silent"
	half       what = "half"   // of an answer, after which the engine closes the connection
	killer     what = "killer" // kills its engine, before or within the answer
)

// manner is how a client behaves.
type manner string

const (
	plain       manner = "plain"
	hangUpEarly manner = "hang-up-early" // before the first byte of the answer
	hangUpLate  manner = "hang-up-late"  // within the answer
	hangUpMid   manner = "hang-up-upload"
	slowHead    manner = "slow-head"
	slowRead    manner = "slow-read"
	pipelined   manner = "pipelined" // two requests at once over HTTP/1.1
)

// spec is one request and how it is made; it follows from the seed, the
// client's number and its own.
type spec struct {
	id       string
	pool     string
	what     what
	manner   manner
	http2    bool
	fresh    bool // over a new connection
	second   bool // to the listener that comes and goes
	size     int  // of the body that goes either way
	events   int
	ms       int
	deadline int           // seconds that the client says it waits; 0: says nothing
	pause    time.Duration // before it hangs up
	reset    bool          // hangs up by a reset
	think    time.Duration // after it
}

func drawSpec(chance *rand.Rand, id string, pools []string) spec {
	s := spec{
		id: id, pool: pools[chance.IntN(len(pools))], manner: plain,
		http2: chance.IntN(4) == 0, fresh: chance.IntN(4) == 0, second: chance.IntN(10) == 0,
		size: 1 + chance.IntN(4000), events: 1 + chance.IntN(30), ms: chance.IntN(30),
		pause: time.Duration(chance.IntN(80)) * time.Millisecond, reset: chance.IntN(2) == 0,
		think: time.Duration(chance.IntN(25)) * time.Millisecond,
	}
	switch n := chance.IntN(100); {
	case n < 45:
		s.what = item
		if chance.IntN(10) == 0 {
			s.size = 1<<18 + chance.IntN(1<<20)
		}
	case n < 70:
		s.what = stream
	case n < 78:
		s.what = digest
	case n < 84:
		s.what = chunked
	case n < 90:
		s.what = completion
	case n < 97:
		s.what = tokens
	default:
		s.what, s.manner = silent, hangUpEarly
	}
	if s.what == digest || s.what == chunked {
		if chance.IntN(2) == 0 {
			s.size = 1<<16 + chance.IntN(1<<19)
		}
	}
	if s.what == completion || s.what == tokens {
		s.pool = pools[0]
	}
	if chance.IntN(60) == 0 {
		s.what, s.pool = half, pools[chance.IntN(2)]
		if chance.IntN(6) == 0 {
			s.what = killer
		}
	}
	if chance.IntN(200) == 0 {
		s.think = 5 * time.Second // for connections to grow old
	}
	switch n := chance.IntN(100); {
	case s.what == silent, s.what == half, s.what == killer:
	case n < 6:
		s.manner = hangUpEarly
	case n < 12:
		s.manner = hangUpLate
	case n < 18 && (s.what == digest || s.what == chunked):
		s.manner = hangUpMid
	case n < 20:
		s.manner = slowHead
	case n < 24:
		s.manner = slowRead
	case n < 30 && s.what == item:
		s.manner, s.http2 = pipelined, false
	}
	if chance.IntN(20) == 0 {
		s.deadline = 6 + chance.IntN(10)
	}
	return s
}

func (s *spec) String() string {
	version := "HTTP/1.1"
	if s.http2 {
		version = "HTTP/2"
	}
	return fmt.Sprintf("%s %s of %s by %s, %s", s.id, s.what, s.pool, version, s.manner)
}

func (s *spec) method() string {
	if s.what == digest || s.what == chunked || s.what == completion || s.what == tokens {
		return http.MethodPost
	}
	return http.MethodGet
}

func (s *spec) target() string {
	switch s.what {
	case item:
		return fmt.Sprintf("/%s/item/%s?size=%d&ms=%d", s.pool, s.id, s.size, s.ms)
	case stream:
		return fmt.Sprintf("/%s/stream/%s?events=%d&ms=%d", s.pool, s.id, s.events, s.ms)
	case digest, chunked:
		return fmt.Sprintf("/%s/digest/%s", s.pool, s.id)
	case silent:
		return fmt.Sprintf("/%s/silent/%s", s.pool, s.id)
	case half, killer:
		return fmt.Sprintf("/%s/%s/%s?size=%d&sent=%d", s.pool, s.what, s.id, s.size, s.events%3*s.size/3)
	case completion, tokens:
	}
	return "/v1/completions"
}

// body is what goes up, nil for nothing.
func (s *spec) body() []byte {
	switch s.what {
	case digest, chunked:
		return itemOf("up"+s.id, s.size)
	case completion, tokens:
		return fmt.Appendf(nil, `{"prompt":%q,"seed":1,"max_tokens":%d,"stream":%t}`, s.id, 1+s.events, s.what == tokens)
	case item, stream, silent, half, killer:
	}
	return nil
}

// oracle is the demo engine inside the test, which says what it must answer.
var oracle = engine.New(engine.Options{Slots: 64})

// check says what is wrong with a whole answer of an engine; nil if it is exact.
func (s *spec) check(got []byte) error {
	want := s.bytes()
	switch s.what {
	case completion, tokens:
		answer := httptest.NewRecorder()
		oracle.ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), http.MethodPost, s.target(), bytes.NewReader(s.body())))
		want = answer.Body.Bytes()
		var err error
		if want, err = words(want); err == nil {
			got, err = words(got)
		}
		if err != nil {
			return err
		}
	case item, stream, digest, chunked:
	case silent, half, killer:
		return fmt.Errorf("an answer where no whole one can come: %d bytes, %.80q", len(got), got)
	}
	if !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		return fmt.Errorf("%d bytes instead of %d, other from byte %d on: %.60q instead of %.60q", len(got), len(want), at, got[at:], want[at:])
	}
	return nil
}

// bytes are the whole answer where it can be computed to the byte, or what half of
// is sent; nil: it cannot.
func (s *spec) bytes() []byte {
	switch s.what {
	case item, half, killer:
		return itemOf(s.id, s.size)
	case stream:
		return streamOf(s.id, s.events)
	case digest, chunked:
		return digestOf(s.id, s.body())
	case completion, tokens, silent:
	}
	return nil
}

// checkBegin says what is wrong with what came of an answer that broke off: half
// of another request's answer is as bad as the whole of it.
func (s *spec) checkBegin(got []byte) error {
	if want := s.bytes(); want != nil && !bytes.HasPrefix(want, got) {
		return fmt.Errorf("broken off after %d bytes that are not the beginning of its answer: %.60q", len(got), got)
	}
	return nil
}

// words are what a completion says, one event to a line, without what differs
// from run to run.
func words(answer []byte) ([]byte, error) {
	text := string(answer)
	events := []string{text}
	if strings.HasPrefix(text, "data: ") {
		whole, cut := strings.CutSuffix(text, streamEnd)
		if !cut {
			return nil, fmt.Errorf("a stream without its end: …%.60q", text[max(0, len(text)-60):])
		}
		events = strings.Split(strings.TrimSuffix(whole, "\n\n"), "\n\n")
	}
	var out []byte
	for _, event := range events {
		var a struct {
			Choices json.RawMessage
			Usage   json.RawMessage
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(event, "data: ")), &a); err != nil {
			return nil, fmt.Errorf("no JSON in %.80q: %w", event, err)
		}
		out = fmt.Appendf(out, "%s %s\n", a.Choices, a.Usage)
	}
	return out, nil
}
