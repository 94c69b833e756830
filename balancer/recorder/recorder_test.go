package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

func newRecorder(tb testing.TB, o Options) *Recorder {
	tb.Helper()
	if o.Redactor == nil {
		var err error
		if o.Redactor, err = NewRedactor([]string{"X-Own"}, []string{`(?i)(customer-)[0-9]+`}); err != nil {
			tb.Fatal(err)
		}
	}
	if o.BodyLimit == 0 {
		o.BodyLimit = 64 << 10
	}
	if o.Memory == 0 {
		o.Memory = 8 << 20
	}
	r, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func newExchange(id, body string, fields ...http1.Field) *exchange.Exchange {
	x := &exchange.Exchange{
		Request: http1.Request{Method: "POST", Target: "/v1/completions", Authority: "a.test", Scheme: "http", Proto: 11, Fields: fields},
		Length:  int64(len(body)),
		Record:  exchange.Record{ID: id, ClientIP: "192.0.2.1", Start: time.Now()},
	}
	if body != "" {
		x.Body = strings.NewReader(body)
	}
	return x
}

// pass is one exchange's whole life on a worker.
func pass(tb testing.TB, r *Recorder, x *exchange.Exchange, worker, answer string, err error) {
	tb.Helper()
	rec := r.Begin(x)
	x.Record.Pool, x.Record.Worker = "p", worker
	rec.Try("p", worker, time.Now())
	if x.Body != nil {
		if _, err := io.Copy(io.Discard, x.Body); err != nil {
			tb.Fatal(err)
		}
	}
	rec.Head(&http1.Response{Status: 200, Fields: http1.Fields{{Name: "Content-Type", Value: "text/plain"}}}, time.Now())
	rec.Write([]byte(answer))
	rec.Tried(time.Now(), err, err != nil)
	x.Record.Status, x.Record.Outcome, x.Record.Err = 200, exchange.OutcomeOK, err
	rec.End(x)
}

func TestAnExchangeIsKeptWhole(t *testing.T) {
	r := newRecorder(t, Options{Keep: 20})
	x := newExchange("one", `{"prompt":"hi"}`, http1.Field{Name: "Content-Type", Value: "application/json"}, http1.Field{Name: "Empty"})
	pass(t, r, x, "p-0", "data: {}\n\n", nil)
	all := r.Exchanges(Filter{ID: "one", Bodies: true})
	if len(all) != 1 {
		t.Fatalf("%d exchanges", len(all))
	}
	got := all[0]
	if got.ID != "one" || got.Client != "192.0.2.1" || got.Worker != "p-0" || got.Pool != "p" || got.End == nil || got.First == nil || got.Status != 200 || got.Outcome != "ok" {
		t.Errorf("%+v", got)
	}
	q := got.Request
	if q.Method != http.MethodPost || q.Target != "/v1/completions" || q.Authority != "a.test" || q.Scheme != "http" || q.Proto != "HTTP/1.1" || q.Unfinished ||
		fmt.Sprint(q.Fields) != "[{Content-Type application/json} {Empty }]" || q.Body != (Body{Size: 15, Head: `{"prompt":"hi"}`}) {
		t.Errorf("request %+v", q)
	}
	if p := got.Response; p == nil || p.Status != 200 || p.Body.Head != "data: {}\n\n" || len(p.Fields) != 1 {
		t.Errorf("response %+v", p)
	}
	if _, still := x.Body.(*strings.Reader); !still {
		t.Errorf("the exchange's body is %T afterwards", x.Body)
	}
	if brief := r.Exchanges(Filter{ID: "one"})[0]; brief.Request.Body.Head != "" || brief.Request.Body.Size != 15 {
		t.Errorf("without bodies: %+v", brief.Request.Body)
	}
	if len(r.Exchanges(Filter{Worker: "p-1"})) != 0 || len(r.Exchanges(Filter{Worker: "p-0"})) != 1 {
		t.Error("not filtered by worker")
	}
}

func TestLongBodiesKeepHeadAndTail(t *testing.T) {
	for _, size := range []int{1, 100, 251, 252, 253, 2031, 2032, 2033, 8191, 8192, 8193, 12000, 100_000} {
		r := newRecorder(t, Options{Keep: 5, BodyLimit: 8 << 10})
		var text strings.Builder
		for i := 0; text.Len() < size; i++ {
			fmt.Fprintf(&text, "%d ", i)
		}
		body := text.String()[:size]
		rec := r.Begin(newExchange("x", ""))
		rec.Head(&http1.Response{Status: 200}, time.Now())
		for rest := []byte(body); len(rest) > 0; {
			n := min(len(rest), 700)
			rec.Write(rest[:n])
			rest = rest[n:]
		}
		b := r.Exchanges(Filter{Bodies: true})[0].Response.Body
		if int(b.Size) != size || int(b.Omitted) != size-len(b.Head)-len(b.Tail) {
			t.Errorf("%d bytes: size %d, omitted %d, kept %d+%d", size, b.Size, b.Omitted, len(b.Head), len(b.Tail))
		}
		if !strings.HasPrefix(body, b.Head) || !strings.HasSuffix(body, b.Tail) {
			t.Errorf("%d bytes: what was kept is not head and tail", size)
		}
		if whole := size <= 8<<10; whole && b.Head != body || !whole && (len(b.Head) < 6000 || len(b.Tail) < 2000 || len(b.Head)+len(b.Tail) > 8<<10) {
			t.Errorf("%d bytes: kept %d+%d", size, len(b.Head), len(b.Tail))
		}
	}
}

func TestSplicedBytesAreCounted(t *testing.T) {
	r := newRecorder(t, Options{Keep: 5})
	rec := r.Begin(newExchange("x", ""))
	rec.Head(&http1.Response{Status: 200}, time.Now())
	rec.Write([]byte("the beginning, "))
	rec.Skip(1 << 20)
	rec.Write([]byte("the end"))
	b := r.Exchanges(Filter{Bodies: true})[0].Response.Body
	if b.Head != "the beginning, " || b.Tail != " end" || b.Size != 22+1<<20 {
		t.Errorf("%+v", b)
	}
}

func TestKeepsTheLastOfEachWorker(t *testing.T) {
	r := newRecorder(t, Options{Keep: 3})
	for i := range 10 {
		pass(t, r, newExchange(fmt.Sprint("a", i), "body"), "a", "", nil)
	}
	pass(t, r, newExchange("b0", "body"), "b", "", nil)
	r.Begin(newExchange("flying", ""))
	if got := ids(r.Exchanges(Filter{})); got != "a7 a8 a9 b0 flying" {
		t.Error(got)
	}
}

func ids(all []Exchange) string {
	var names []string
	for _, x := range all {
		names = append(names, x.ID)
	}
	return strings.Join(names, " ")
}

// TestBudgetHolds: whatever passes, no more blocks are made than the budget
// has, and the oldest that has ended is given up first.
func TestBudgetHolds(t *testing.T) {
	r := newRecorder(t, Options{Keep: 1000, Memory: 64 << 10})
	big := strings.Repeat("word ", 2000)
	for i := range 50 {
		pass(t, r, newExchange(fmt.Sprint(i), big), "w", big, nil)
	}
	all := r.Exchanges(Filter{Bodies: true})
	if len(all) == 0 || len(all) > 6 || all[len(all)-1].ID != "49" || all[0].ID != fmt.Sprint(50-len(all)) {
		t.Fatalf("kept %s", ids(all))
	}
	if b := all[len(all)-1].Request.Body; b.Head != big {
		t.Errorf("the last one's body was not kept whole: %d of %d", len(b.Head), b.Size)
	}
	if held, most := r.blocks(), 64<<10/blockSize; held != int(r.arena.used) || held > most {
		t.Errorf("%d blocks are somewhere of %d used, budget of %d", held, r.arena.used, most)
	}
	// With nothing that has ended, what comes is counted.
	for range 20 {
		rec := r.Begin(newExchange("f", ""))
		rec.Head(&http1.Response{Status: 200}, time.Now())
		rec.Write([]byte(big))
	}
	if b := r.Exchanges(Filter{ID: "f", Bodies: true}); len(b) > 0 && b[len(b)-1].Response != nil && b[len(b)-1].Response.Body.Omitted == 0 {
		t.Error("nothing was omitted without memory")
	}
}

// blocks counts them wherever they are.
func (r *Recorder) blocks() int {
	n := r.arena.free.blocks
	for _, first := range []*Recording{r.inFlight.first, r.ended.first, r.spares.first} {
		for rec := first; rec != nil; rec = rec.next {
			n += rec.reserve.blocks + rec.heads.blocks
			for _, c := range []*capture{&rec.request, &rec.response} {
				n += c.head.blocks + c.tail.blocks
			}
		}
	}
	return n
}

func TestSuspects(t *testing.T) {
	r := newRecorder(t, Options{Keep: 1})
	failed := errors.New("read answer: EOF")
	pass(t, r, newExchange("well before", ""), "w", "", nil)
	gone := newExchange("client gone", "")
	rec := r.Begin(gone)
	rec.Try("p", "w", time.Now())
	rec.Tried(time.Now(), errors.New("client went away"), false)
	gone.Record.Worker = "w"
	rec.End(gone)
	rec = r.Begin(newExchange("in flight", ""))
	rec.Try("p", "w", time.Now())
	other := r.Begin(newExchange("elsewhere", ""))
	other.Try("p", "v", time.Now())
	for i := range 3 { // more than Keep: all end at once
		pass(t, r, newExchange(fmt.Sprint("broken", i), ""), "w", "half", failed)
	}
	retried := newExchange("retried", "")
	rec = r.Begin(retried)
	rec.Try("p", "w", time.Now())
	rec.Tried(time.Now(), failed, true)
	rec.Try("p", "v", time.Now())
	retried.Record.Worker = "v"
	rec.End(retried)
	answered := newExchange("answered 500", "")
	rec = r.Begin(answered)
	rec.Try("p", "w", time.Now())
	rec.Head(&http1.Response{Status: 500}, time.Now())
	rec.Tried(time.Now(), nil, false)
	answered.Record.Worker, answered.Record.Status = "v", 500
	rec.End(answered)

	at := time.Now()
	late := r.Begin(newExchange("after the death", ""))
	late.Try("p", "w", time.Now())
	if got := ids(r.Suspects("w", at)); got != "in flight broken0 broken1 broken2 retried answered 500" {
		t.Errorf("suspects: %s", got)
	}
	if got := ids(r.Suspects("w", at.Add(time.Minute))); got != "in flight after the death" {
		t.Errorf("suspects of a later death: %s", got)
	}
}

func TestNoRecorder(t *testing.T) {
	var r *Recorder
	x := newExchange("x", "body")
	before := x.Body
	if n := testing.AllocsPerRun(10, func() {
		rec := r.Begin(x)
		rec.Try("p", "w", time.Now())
		rec.Head(nil, time.Now())
		rec.Write(nil)
		rec.Skip(1)
		rec.Tried(time.Now(), nil, false)
		rec.End(x)
	}); n != 0 || x.Body != before || r.Exchanges(Filter{}) != nil || r.Suspects("w", time.Now()) != nil {
		t.Errorf("%v allocations, body %T", n, x.Body)
	}
}

// TestReadersAndWriters lets everything happen at once; the race detector and
// the content of what is read judge.
func TestReadersAndWriters(t *testing.T) {
	r := newRecorder(t, Options{Keep: 4, Memory: 256 << 10, BodyLimit: 16 << 10})
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		writers.Go(func() {
			for i := range 300 {
				id := fmt.Sprintf("%d-%d", w, i)
				body := strings.Repeat(id+" ", 1+i*7%3000)
				pass(t, r, newExchange(id, body), fmt.Sprint("w", w), body, nil)
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, x := range r.Exchanges(Filter{Bodies: true}) {
					// A body that is still being read may end in the middle of an id.
					b := x.Request.Body
					if rest := strings.ReplaceAll(b.Head+b.Tail, x.ID+" ", ""); b.Omitted == 0 && !strings.HasPrefix(x.ID, rest) {
						t.Errorf("%s holds another's bytes: %q", x.ID, rest)
					}
				}
				r.Suspects("w1", time.Now())
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

func BenchmarkExchange(b *testing.B) {
	chunk := []byte("data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n")
	answer := []byte(strings.Repeat("answer ", 150))
	b.Run("small/off", func(b *testing.B) { benchmarkExchange(b, nil, 1, answer) })
	b.Run("small/on", func(b *testing.B) { benchmarkExchange(b, newRecorder(b, Options{Keep: 20}), 1, answer) })
	b.Run("stream/off", func(b *testing.B) { benchmarkExchange(b, nil, 100, chunk) })
	b.Run("stream/on", func(b *testing.B) { benchmarkExchange(b, newRecorder(b, Options{Keep: 20}), 100, chunk) })
}

func benchmarkExchange(b *testing.B, r *Recorder, chunks int, chunk []byte) {
	b.Helper()
	b.ReportAllocs()
	fields := http1.Fields{
		{Name: "Content-Type", Value: "application/json"},
		{Name: "Authorization", Value: "Bearer sk-x"},
		{Name: "User-Agent", Value: "bench"},
		{Name: "X-Request-Id", Value: "0195f3c2-77aa-7c11-8a53-5b1c1f0a9d1e"},
		{Name: "X-Forwarded-For", Value: "192.0.2.1"},
		{Name: "X-Forwarded-Proto", Value: "http"},
		{Name: "X-Forwarded-Host", Value: "127.0.0.1:8000"},
	}
	body, buf, at := strings.Repeat("prompt ", 150), make([]byte, 4096), time.Now()
	x, in := newExchange("id", "x", fields...), strings.NewReader(body)
	x.Length = int64(len(body))
	head := &http1.Response{Status: 200, Fields: fields[:1]}
	for b.Loop() {
		in.Reset(body)
		x.Body = in
		rec := r.Begin(x)
		rec.Try("p", "w", time.Now())
		_, _ = x.Body.Read(buf)
		rec.Head(head, at)
		for range chunks {
			rec.Write(chunk)
		}
		rec.Tried(time.Now(), nil, false)
		rec.End(x)
	}
}

// TestMemoryIsUsedAgain: what is resident is what was kept at one time, however
// much has passed, and that is little for small requests.
func TestMemoryIsUsedAgain(t *testing.T) {
	r := newRecorder(t, Options{Keep: 20})
	for i := range 1000 {
		x := newExchange(fmt.Sprint(i), strings.Repeat("x", 300), http1.Field{Name: "User-Agent", Value: "test"})
		pass(t, r, x, "w", strings.Repeat("y", 700), nil)
	}
	if used := int(r.arena.used) * blockSize; used > 64<<10 {
		t.Errorf("20 requests of 1 KiB are kept in %d bytes", used)
	}
	if held := r.blocks(); held != int(r.arena.used) {
		t.Errorf("%d blocks are somewhere, of %d used", held, r.arena.used)
	}
}

func TestNoRoomForTheBudget(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "recorder.memory_mib") {
		t.Errorf("a budget of nothing: %v", err)
	}
}

// TestChunksAllocateNothing: once its memory is made, a recorder lives in it. The
// race detector has a sync.Pool forget what it is given at times.
func TestChunksAllocateNothing(t *testing.T) {
	r := newRecorder(t, Options{Keep: 2})
	x, in, chunk, p := newExchange("x", "body"), strings.NewReader(""), bytes.Repeat([]byte("word "), 100), make([]byte, 100)
	head := &http1.Response{Status: 200}
	one := func() {
		in.Reset("body")
		x.Body = in
		rec := r.Begin(x)
		rec.Try("p", "w", time.Now())
		_, _ = x.Body.Read(p)
		rec.Head(head, time.Now())
		for range 300 { // head and tail
			rec.Write(chunk)
		}
		rec.Tried(time.Now(), nil, false)
		rec.End(x)
	}
	for range 10 {
		one()
	}
	if n := testing.AllocsPerRun(50, one); n >= 10 {
		t.Errorf("%v allocations for each exchange", n)
	}
}

// moving is a body that need not be read.
type moving struct {
	*strings.Reader
	moved int64
}

func (m *moving) Move(_ *rawconn.Conn, n int64) (int64, error) {
	m.moved += n
	_, _ = m.Seek(n, io.SeekCurrent)
	return n, nil
}

// What a transport would move past the recorder is read where it is kept.
func TestMovedBodiesKeepHeadAndTail(t *testing.T) {
	var text strings.Builder
	for i := 0; text.Len() < 100_000; i++ {
		fmt.Fprintf(&text, "%d ", i)
	}
	content := text.String()
	r := newRecorder(t, Options{Keep: 5, BodyLimit: 8 << 10})
	x := newExchange("x", content)
	from := &moving{Reader: strings.NewReader(content)}
	x.Body = from
	r.Begin(x)
	room := make([]byte, 1000)
	for left := int64(len(content)); left > 0; {
		moved, err := x.Body.(exchange.Mover).Move(nil, left-1)
		if err != nil {
			t.Fatal(err)
		}
		left -= moved
		n, _ := x.Body.Read(room)
		left -= int64(n)
	}
	b := r.Exchanges(Filter{Bodies: true})[0].Request.Body
	if from.moved < 80_000 || int(b.Size) != len(content) || len(b.Head) < 6000 || len(b.Tail) < 2000 || !strings.HasPrefix(content, b.Head) || !strings.HasSuffix(content, b.Tail) {
		t.Errorf("moved %d; size %d, kept %d+%d", from.moved, b.Size, len(b.Head), len(b.Tail))
	}
}
