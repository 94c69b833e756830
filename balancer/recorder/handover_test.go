package recorder

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/internal/http1"
)

// tell passes all that is news on.
func tell(h *Handover, heir *Heir) {
	for more := true; more; {
		var news []Told
		news, more = h.Next(1<<20, time.Second)
		for _, t := range news {
			heir.Take(t)
		}
	}
}

// TestWhatWasRecordedIsTakenOver whole, in order, in all its forms, and what was
// in flight when that has ended.
func TestWhatWasRecordedIsTakenOver(t *testing.T) {
	old, next := newRecorder(t, Options{Keep: 20}), newRecorder(t, Options{Keep: 20})
	for i := range 5 {
		x := newExchange(fmt.Sprint("done", i), `{"prompt":"hi"}`, http1.Field{Name: "Authorization", Value: "Bearer hush"})
		pass(t, old, x, "w", "answer sk-hushhushhush", nil)
	}
	x := newExchange("flying", `{"stream":true}`)
	rec := old.Begin(x)
	rec.Try("p", "w", time.Now())
	_, _ = x.Body.Read(make([]byte, 100))

	pass(t, next, newExchange("own", ""), "w", "", nil)
	handover, heir := old.Handover(), next.Heir()
	tell(handover, heir)
	if got := ids(next.Exchanges(Filter{Worker: "w"})); got != "done0 done1 done2 done3 done4 flying own" {
		t.Error(got)
	}
	for _, bodies := range []bool{true, false} {
		before, after := old.Exchanges(Filter{ID: "done3", Bodies: bodies}), next.Exchanges(Filter{ID: "done3", Bodies: bodies})
		if want, got := text(t, before), text(t, after); got != want || strings.Contains(got, "hush") {
			t.Errorf("told\n%s, kept\n%s", want, got)
		}
	}
	if f := next.Exchanges(Filter{ID: "flying", Bodies: true}); len(f) != 1 || f[0].End != nil || f[0].Request.Body.Head != `{"stream":true}` {
		t.Errorf("in flight: %+v", f)
	}
	if news, more := handover.Next(1<<20, time.Second); len(news) != 0 || more {
		t.Errorf("%d are told again", len(news))
	}
	if s := next.Suspects("w", time.Now()); len(s) != 0 {
		t.Errorf("another's exchanges are suspects here: %s", ids(s))
	}

	rec.Head(&http1.Response{Status: 200}, time.Now())
	rec.Write([]byte("data: end\n\n"))
	rec.Tried(time.Now(), nil, false)
	x.Record.Worker, x.Record.Status, x.Record.Outcome = "w", 200, "ok"
	rec.End(x)
	tell(handover, heir)
	heir.End()
	if f := next.Exchanges(Filter{ID: "flying", Bodies: true}); len(f) != 1 || f[0].End == nil || f[0].Outcome != "ok" || f[0].Response.Body.Head != "data: end\n\n" {
		t.Errorf("ended: %+v", f)
	}
	if held := next.blocks(); held != int(next.arena.used) {
		t.Errorf("%d blocks are somewhere, of %d used", held, next.arena.used)
	}
	// And on to a third.
	third := newRecorder(t, Options{Keep: 20})
	tell(next.Handover(), third.Heir())
	if want, got := text(t, next.Exchanges(Filter{Bodies: true})), text(t, third.Exchanges(Filter{Bodies: true})); got != want {
		t.Errorf("in the third\n%s, in the second\n%s", got, want)
	}
}

func text(tb testing.TB, all []Exchange) string {
	tb.Helper()
	b, err := json.Marshal(all)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// TestTheTellerDies: what it had in flight is not in flight for ever.
func TestTheTellerDies(t *testing.T) {
	old, next := newRecorder(t, Options{Keep: 20}), newRecorder(t, Options{Keep: 20})
	rec := old.Begin(newExchange("flying", ""))
	rec.Try("p", "w", time.Now())
	heir := next.Heir()
	tell(old.Handover(), heir)
	heir.End()
	f := next.Exchanges(Filter{})
	if len(f) != 1 || f[0].End == nil || f[0].Outcome != "unknown" || f[0].Error == "" {
		t.Errorf("%+v", f)
	}
}

// TestASmallerHeir keeps what it has room for: the newest, and its own.
func TestASmallerHeir(t *testing.T) {
	old, next := newRecorder(t, Options{Keep: 20}), newRecorder(t, Options{Keep: 5, Memory: 64 << 10})
	for i := range 20 {
		pass(t, old, newExchange(fmt.Sprint(i), strings.Repeat("word ", 2000)), "w", "", errors.New("reset"))
	}
	pass(t, next, newExchange("own", ""), "w", "", nil)
	tell(old.Handover(), next.Heir())
	got := ids(next.Exchanges(Filter{}))
	if !strings.HasSuffix(got, "19 own") || len(next.Exchanges(Filter{})) > 6 {
		t.Error(got)
	}
	if held := next.blocks(); held != int(next.arena.used) {
		t.Errorf("%d blocks are somewhere, of %d used", held, next.arena.used)
	}
}

// TestALaterRedactor: what the next one takes for secret it does not show, whoever told it.
func TestALaterRedactor(t *testing.T) {
	strict, err := NewRedactor([]string{"X-Plan"}, []string{`plan-[0-9]+`})
	if err != nil {
		t.Fatal(err)
	}
	old, next := newRecorder(t, Options{Keep: 20}), newRecorder(t, Options{Keep: 20, Redactor: strict})
	pass(t, old, newExchange("x", "the plan-4711", http1.Field{Name: "X-Plan", Value: "hush"}), "w", "of plan-4711", nil)
	tell(old.Handover(), next.Heir())
	if got := text(t, next.Exchanges(Filter{Bodies: true})); strings.Contains(got, "plan-4711") || strings.Contains(got, "hush") || !strings.Contains(got, "the "+Redacted) {
		t.Error(got)
	}
}

func TestNothingToTellOrTake(t *testing.T) {
	var none *Recorder
	if news, more := none.Handover().Next(1, time.Second); len(news) != 0 || more {
		t.Error("a recorder that is off tells something")
	}
	none.Heir().Take(Told{})
	none.Heir().End()
	r := newRecorder(t, Options{Keep: 1})
	heir := r.Heir()
	for _, text := range []string{"", "nonsense", "[]", `{"seq":"x"}`} {
		heir.Take(Told{Key: 1, Exchange: json.RawMessage(text)})
	}
	if all := r.Exchanges(Filter{}); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

// TestPieces: no more is told at once than was asked for.
func TestPieces(t *testing.T) {
	r := newRecorder(t, Options{Keep: 20})
	for i := range 10 {
		pass(t, r, newExchange(fmt.Sprint(i), strings.Repeat("word ", 2000)), "w", "", nil)
	}
	h := r.Handover()
	var told, calls int
	for more := true; more; calls++ {
		var news []Told
		news, more = h.Next(25_000, time.Minute)
		told += len(news)
	}
	if told != 10 || calls != 4 {
		t.Errorf("%d in %d pieces", told, calls)
	}
}

// TestTellingWhileRecording: the race detector judges, and what arrived.
func TestTellingWhileRecording(t *testing.T) {
	old, next := newRecorder(t, Options{Keep: 50, Memory: 1 << 20}), newRecorder(t, Options{Keep: 50, Memory: 1 << 20})
	h, heir := old.Handover(), next.Heir()
	var busy sync.WaitGroup
	for w := range 2 {
		busy.Go(func() {
			for i := range 300 {
				pass(t, old, newExchange(fmt.Sprint("old", w, i), "body"), fmt.Sprint("w", w), "answer", nil)
				pass(t, next, newExchange(fmt.Sprint("new", w, i), "body"), fmt.Sprint("w", w), "answer", nil)
			}
		})
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				next.Exchanges(Filter{Bodies: true})
			}
		}
	})
	for range 50 {
		news, _ := h.Next(10_000, time.Second)
		for _, t := range news {
			heir.Take(t)
		}
	}
	busy.Wait()
	close(stop)
	reader.Wait()
	tell(h, heir)
	heir.End()
	for _, x := range next.Exchanges(Filter{}) {
		if x.End == nil {
			t.Errorf("%s is in flight", x.ID)
		}
	}
	if held := next.blocks(); held != int(next.arena.used) {
		t.Errorf("%d blocks are somewhere, of %d used", held, next.arena.used)
	}
}
