package front

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// life is the context of one request: it ends when the client goes away, the
// request is cut, or it is over. A request asks little of it, and so it makes
// what is asked for only then: net/http's contexts were a third of all that a
// small request allocated.
//
// Err and context.Cause both give the cause with which it was ended, as an
// error that is also context.Canceled.
type life struct {
	// err is set under mu, and read without: it is asked for again and again.
	err atomic.Pointer[ended]

	mu   sync.Mutex
	done chan struct{} // made by Done
	// hooks are what AfterFunc was given; room is for the usual few.
	hooks []hook
	room  [2]hook
	next  int
}

type hook struct {
	id  int
	run func()
}

var (
	_ context.Context = (*life)(nil)

	// errOver is how nearly all end: by themselves.
	errOver = &ended{context.Canceled}

	// closed is what Done returns when it is first asked after the end.
	closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
)

func newLife() *life {
	l := new(life)
	l.hooks = l.room[:0]
	return l
}

// end ends l with cause; only the first call counts.
func (l *life) end(cause error) { l.endAs(&ended{cause}) }

// over is called when the request has ended by itself.
func (l *life) over() { l.endAs(errOver) }

func (l *life) endAs(how *ended) {
	l.mu.Lock()
	if l.err.Load() != nil {
		l.mu.Unlock()
		return
	}
	l.err.Store(how)
	if l.done == nil {
		l.done = closed
	} else {
		close(l.done)
	}
	hooks := l.hooks
	l.hooks = nil
	l.mu.Unlock()
	for _, h := range hooks {
		go h.run() // as context.AfterFunc promises
	}
}

// Deadline implements context.Context: there is none.
func (l *life) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (l *life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
	}
	return l.done
}

// Err implements context.Context.
func (l *life) Err() error {
	how := l.err.Load()
	if how == nil {
		return nil
	}
	<-l.Done() // not a moment before that is closed
	return how
}

// Value implements context.Context: there are none.
func (l *life) Value(any) any { return nil }

// AfterFunc runs f in a goroutine of its own when l ends, unless stop is called
// before; stop says whether it was. Package context uses it for contexts
// derived from l.
func (l *life) AfterFunc(f func()) (stop func() bool) {
	id := l.Arm(f)
	return func() bool { return l.Disarm(id) }
}

// Arm is AfterFunc with a number to stop f by, which takes no memory.
func (l *life) Arm(f func()) (id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err.Load() != nil {
		go f()
		return -1
	}
	id = l.next
	l.next++
	l.hooks = append(l.hooks, hook{id, f})
	return id
}

// Disarm is what AfterFunc's stop does.
func (l *life) Disarm(id int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.hooks {
		if l.hooks[i].id == id {
			last := len(l.hooks) - 1
			l.hooks[i] = l.hooks[last]
			l.hooks[last] = hook{}
			l.hooks = l.hooks[:last]
			return true
		}
	}
	return false
}

// ended is a cause that also is a cancellation to those who ask for that.
type ended struct{ cause error }

func (e *ended) Error() string { return e.cause.Error() }

func (e *ended) Unwrap() error { return e.cause }

// Is makes it context.Canceled too.
func (e *ended) Is(target error) bool { return target == context.Canceled }
