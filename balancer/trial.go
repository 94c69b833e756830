package balancer

import (
	"sync"
	"sync/atomic"
	"time"
)

// trial is a suspect's time on an engine, apart from others.
//
//	it has                                                  then
//	begun                                                   the engine gets nobody else
//	been there for aloneFor without an answer               others are let on: an engine that hangs has been found out
//	an answer that has begun, aloneBegun ago                others are let on: who kills does so at its beginning
//	passed                                                  the next suspect is let on, when the pool thinks so
//
// It has passed when it has got further than its like was when an engine died: that
// is, when
//
//	an answer has begun, and it is older than that was; or
//	none has begun, and it is older by a quarter and slowStart; or
//	a stream that goes on here gives its client something new.
type trial struct {
	room   room
	began  time.Time
	age    time.Duration
	passed atomic.Bool
	once   sync.Once // for answered
	share  *time.Timer
	pass   *time.Timer
}

// room is a lease that keeps others away.
type room interface {
	// Share lets others on, Pass the next suspect.
	Share()
	Pass()
	// HasYielded says whether another suspect has been let on.
	HasYielded() bool
}

const (
	// aloneFor is how long a suspect keeps a worker for itself at most: long enough
	// for one that hangs to be found out. Once its answer has begun that is
	// aloneBegun: who kills does so at its beginning, and a generation may take minutes.
	aloneFor   = 15 * time.Second
	aloneBegun = 2 * time.Second
	// slowStart is by how much a new engine may be slower with its first requests.
	slowStart = 500 * time.Millisecond
)

// newTrial begins one, by a lease that keeps others away; nil for others. age is
// that of its like when an engine died under it. One that is held strictly does
// not pass: a killer by chance would else hide among others again and again.
func newTrial(lease Lease, age time.Duration, strictly bool) *trial {
	r, ok := lease.(room)
	if !ok {
		return nil
	}
	t := &trial{room: r, began: time.Now(), age: age}
	t.share = time.AfterFunc(aloneFor, r.Share)
	t.pass = time.AfterFunc(age+age/4+slowStart, t.hasPassed)
	if strictly {
		t.pass.Stop()
	}
	return t
}

func (t *trial) hasPassed() {
	t.passed.Store(true)
	t.room.Pass()
}

// isPast says whether it has passed.
func (t *trial) isPast() bool { return t != nil && t.passed.Load() }

// answered is told that the answer has begun, for the client that has had none.
func (t *trial) answered() { t.further(t.age) }

// further is told that the answer goes on, and by what age it has passed.
func (t *trial) further(age time.Duration) {
	t.once.Do(func() {
		t.share.Reset(aloneBegun)
		if t.pass.Stop() { // else it has
			t.pass.Reset(max(0, age-time.Since(t.began)))
		}
	})
}

// end is told that the engine has answered, or broken off: nothing passes after
// that. News of its death may come later.
func (t *trial) end() {
	if t != nil {
		t.share.Stop()
		t.pass.Stop()
	}
}

func (t *trial) hasYielded() bool { return t != nil && t.room.HasYielded() }

// begun is told that the answer has begun.
func (j *journey) begun() {
	if j.trial != nil {
		j.trial.answered()
	}
}

// caught is told that a stream that another worker goes on with has come to what
// its client has not had.
func (j *journey) caught() {
	if j.trial != nil {
		j.trial.further(0)
	}
}
