package front

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
)

func TestLifeIsAContext(t *testing.T) {
	l := newLife()
	if l.Err() != nil || l.Value("x") != nil {
		t.Errorf("a new life: %v", l.Err())
	}
	early := l.Done()
	derived, cancel := context.WithTimeout(l, time.Hour)
	defer cancel()
	ran := make(chan struct{})
	context.AfterFunc(l, func() { close(ran) })
	l.end(exchange.ErrClientGone)
	l.end(exchange.ErrShutdown)
	for _, done := range []<-chan struct{}{early, l.Done(), derived.Done(), ran} {
		wait(t, done, "the end")
	}
	for _, ctx := range []context.Context{l, derived} {
		if err := context.Cause(ctx); !errors.Is(err, exchange.ErrClientGone) || errors.Is(err, exchange.ErrShutdown) {
			t.Errorf("cause %v", err)
		}
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("error %v", ctx.Err())
		}
	}
	if l.Err().Error() != exchange.ErrClientGone.Error() {
		t.Errorf("text %q", l.Err())
	}
}

func TestLifeForgetsStoppedFunctions(t *testing.T) {
	l := newLife()
	var stops []func() bool
	ran := make(chan int, 5)
	for i := range 5 {
		stops = append(stops, l.AfterFunc(func() { ran <- i }))
	}
	for _, i := range []int{0, 3, 4} {
		if !stops[i]() {
			t.Errorf("%d could not be stopped", i)
		}
		if stops[i]() {
			t.Errorf("%d could be stopped twice", i)
		}
	}
	l.over()
	if got := wait(t, ran, "one") + wait(t, ran, "another"); got != 1+2 {
		t.Errorf("ran %d", got)
	}
	if stops[1]() {
		t.Error("could be stopped after the end")
	}
	if l.AfterFunc(func() { ran <- 9 })() {
		t.Error("could be stopped when it was late already")
	}
	if got := wait(t, ran, "the late one"); got != 9 {
		t.Errorf("ran %d", got)
	}
}

func TestLifeUnderRace(_ *testing.T) {
	for range 100 {
		l := newLife()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				stop := l.AfterFunc(func() {})
				<-l.Done()
				stop()
			})
		}
		wg.Go(func() { l.end(exchange.ErrShutdown) })
		wg.Go(l.over)
		wg.Wait()
	}
}
