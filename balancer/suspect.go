package balancer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/upstream"
)

// What a pool does with the suspects of a death of which nothing was sent to a client.
const (
	// OnDeathIsolate tries each once more, apart from others.
	OnDeathIsolate = "isolate"
	// OnDeathFail does not.
	OnDeathFail = "fail"
)

// emptying is how long the requests on a worker may take to finish, for a
// suspect that is to be alone there; then it goes beside them.
const emptying = 3 * time.Second

// poisonError refuses what has killed engines.
type poisonError struct {
	found *quarantine.Conviction
}

func (e *poisonError) Error() string { return "quarantined as " + e.found.ID }

// text is for the client.
func (e *poisonError) text() string {
	what, verb := "this request has", "is"
	if e.found.Kind == quarantine.KindSchema {
		what, verb = "the schema, grammar or tools of this request have", "are"
	}
	why := "been quarantined by an operator"
	if len(e.found.Deaths) > 0 {
		why = "killed engines that were given it"
	}
	text := what + " " + why + ", and " + verb + " refused until " + e.found.Expires.UTC().Format(time.RFC3339) + " (quarantine " + e.found.ID
	if ids := e.found.Crashes(); len(ids) > 0 {
		text += ", crash " + strings.Join(ids, ", ")
	}
	return text + "); do not send it again"
}

func judgePoison(e *poisonError) verdict {
	return verdict{ending: &ending{
		outcome: exchange.OutcomePoison, status: http.StatusUnprocessableEntity, kind: typePoison, code: "quarantined", message: e.text(),
	}}
}

// journey is one request on its way through a lane.
type journey struct {
	// charged is what the prompt weighs on lease; first, as each piece of an answer asks.
	charged int

	b    *Balancer
	l    *lane
	x    *exchange.Exchange
	a    *attempt
	e    *evidence // nil: the pool is not watched
	want Want
	due  due
	s    *stream // nil: it is none that could change its worker
	// held is the body, where it was read to find that out.
	held *heldBody
	// again: a suspect may be tried once more.
	again bool
	// last is the verdict on the last attempt; retrying: the lane counts one more.
	last     verdict
	retrying bool
	// missed is how many members have refused the connection, since missing.
	missed  int
	missing time.Time
	// done ends a suspect's turn; nil: it has none.
	done func()
	// queued: it is one of the lane's suspects.
	queued bool
	// trial is the present one; nil: it is under no suspicion.
	trial *trial
	// strictly: the trial is to have nobody beside it.
	strictly bool
	lease    Lease // the present one
}

// admit finds a place: apart from others for who is under suspicion, none for
// who is convicted. Who is cleared of suspicion while it waits goes to the others.
func (j *journey) admit(wait context.Context) (Lease, error) {
	j.want.Alone, j.want.Shared = false, false
	if j.e == nil || !j.b.court.Alert() {
		return j.l.acquire(wait, j.x, &j.want)
	}
	return j.admitJudged(wait)
}

// admitJudged is admit while anybody is under suspicion.
func (j *journey) admitJudged(wait context.Context) (Lease, error) {
	if err := j.e.read(); err != nil {
		return nil, &upstream.Failure{Op: upstream.OpClientBody, Err: err}
	}
	defer j.standNoMore()
	for {
		lease, err := j.admitAs(wait)
		if !errors.Is(err, quarantine.ErrChanged) {
			return lease, err
		}
	}
}

// admitAs finds a place for who stands as it does now.
func (j *journey) admitAs(wait context.Context) (Lease, error) {
	j.want.Alone, j.want.Shared = false, false
	suspect, err := j.stand(wait)
	if err != nil {
		return nil, err
	}
	if suspect {
		limited, done := j.b.court.WhileSuspected(wait, j.e.prints())
		defer done()
		wait = limited
		j.want.Alone, j.want.Patience = true, emptying
		if (j.e.died || j.e.spared) && j.l.ward.requestsAt(j.x.Record.Worker) <= 1 {
			j.want.Shared, j.want.Patience = true, 0 // most likely somebody just killed the worker
		}
	}
	return j.l.acquire(wait, j.x, &j.want)
}

// stand asks the court, and waits for its turn if it is under suspicion.
func (j *journey) stand(wait context.Context) (suspect bool, err error) {
	prints := j.e.prints()
	if prints == (quarantine.Prints{}) {
		return false, nil
	}
	began := time.Now()
	defer func() { j.x.Record.Queued += time.Since(began) }()
	yielded := false
	for {
		s := j.b.court.Judge(prints)
		switch {
		case s.Convicted != nil:
			j.leave()
			return false, &poisonError{s.Convicted}
		case s.Suspect == (quarantine.Print{}):
			j.leave()
			return false, nil
		case j.done != nil && yielded:
			j.want.Age, j.strictly = s.Age, s.Strictly
			return true, nil
		}
		if !j.mayStand() {
			return false, upstream.ErrQueueFull
		}
		limited, cancel := context.WithTimeoutCause(wait, j.l.rules.QueueTimeout, upstream.ErrQueueTimeout)
		if j.done == nil {
			j.done, err = j.b.court.Turn(limited, s.Suspect)
		} else {
			err = j.b.court.Yield(limited, prints)
			yielded = true
		}
		cancel()
		if err != nil {
			return false, err
		}
	}
}

// mayStand bounds those who wait for their turn, or for a worker of their own, as
// the queue bounds the others. Who has been on an engine had a place already.
func (j *journey) mayStand() bool {
	if j.queued || j.x.Record.Attempts > 0 {
		return true
	}
	if j.l.suspects.Add(1) > int64(max(j.l.rules.QueueLength, 1)) { // 1: who does not wait at all
		j.l.suspects.Add(-1)
		return false
	}
	j.queued = true
	return true
}

// standNoMore is for who has a place now, or none.
func (j *journey) standNoMore() {
	if j.queued {
		j.l.suspects.Add(-1)
		j.queued = false
	}
}

// leave gives its turn to the next.
func (j *journey) leave() {
	if j.done != nil {
		j.done()
		j.done = nil
	}
}

// try lets one member answer, and finds out whether that has killed its engine.
//
// The place is given back last. A suspect that waits for a place of its own was
// once let onto the worker that the one before had just killed, in the moment
// before that was known: both had then been on two engines that died, and
// nobody could be convicted.
func (j *journey) try(ctx context.Context, lease Lease) verdict {
	j.lease = lease
	defer j.giveBack()
	life := j.setOut(lease)
	v := classify(j.do(ctx, lease))
	return j.learn(ctx, life, v)
}

func (j *journey) giveBack() {
	defer j.lease.Release()
	j.relieve()
	j.trial = nil
}

// setOut is what precedes a member's answer. What a stream has on its stack while
// it waits it has for minutes, so that all but the wait is in functions apart.
func (j *journey) setOut(lease Lease) *upstream.Life {
	life := lifeOf(lease)
	if j.want.Alone {
		j.trial = newTrial(lease, j.want.Age, j.strictly)
	}
	x, a := j.x, j.a
	x.Record.Attempts++
	now := x.Departure()
	j.l.ward.try(j.e, lease.Name(), j.trial, now)
	x.Record.Worker = lease.Name()
	a.record.Try(x.Record.Pool, lease.Name(), now)
	if a.trace != nil {
		a.trace.Try(x, addressOf(lease))
	}
	return life
}

// learn is what follows it, and lets the pool know how it went.
func (j *journey) learn(ctx context.Context, life *upstream.Life, v verdict) verdict {
	a := j.a
	a.trace.Tried(a.head.Status, v.code, v.err)
	a.record.Tried(j.x.Record.Now(), v.err, isFault(v.err))
	well := v.isWell() && a.head.Status < http.StatusInternalServerError
	switch {
	case v.refused:
		j.lease.Refused()
	case v.blame:
		j.lease.Failed()
	case well:
		j.lease.Answered()
	}
	question(j.lease, v.err)
	j.trial.end()
	if j.e == nil {
		return v
	}
	if broke(v.err) {
		j.l.ward.parted(j.e, unread(v.err))
		v.died = j.isOver(ctx, life)
	}
	j.l.ward.tried(j.e, !well && !v.died && j.x.Record.Attempts > 0 && sent(v) && !errors.Is(v.err, errMoved))
	if well && j.b.court.Alert() {
		j.b.court.Survived(j.e.prints())
	}
	if v.died {
		j.second(&v)
	}
	if !v.died || !j.again {
		j.leave() // else it goes on being tried: others wait for that, see Court.Yield
	}
	return v
}

// isOver says whether a member's engine has died, and waits for the news. An
// answer that has begun is not held for long: its request is not tried again,
// and is among the suspects all the same if a death follows. It is held at all
// since a client that sends the same again at once would else be let onto the
// next engine before anybody knows.
func (j *journey) isOver(ctx context.Context, life *upstream.Life) bool {
	if j.a.begun {
		return died(ctx, life, begunWait)
	}
	return died(ctx, life, verdictWait)
}

// second decides whether a suspect is tried once more. Whose second engine has died
// after it had passed, and others been let beside it, is most likely one of those
// for whom the next death is not meant, and is tried again; and so is, once, whom its
// engine had not read.
func (j *journey) second(v *verdict) {
	spared := unread(v.err) && !j.e.spared // as the court has it
	first := !j.e.died || j.trial.hasYielded() || spared
	j.e.died, j.e.spared = j.e.died || !spared, j.e.spared || spared
	j.again = first && j.l.rules.OnDeath == OnDeathIsolate && j.e.prints() != quarantine.Prints{}
	v.retry = j.again && !j.a.begun
	if v.retry {
		v.code = "worker_died"
		j.e.rewind()
	}
}

// sent says whether a member had something of the request.
func sent(v verdict) bool {
	if failure, ok := errors.AsType[*upstream.Failure](v.err); ok {
		return failure.Sent
	}
	return v.err == nil
}

// broke says whether the connection to a member broke after something was sent. One
// that was idle may have broken for another reason, unless nobody listens there any more.
func broke(err error) bool {
	failure, ok := errors.AsType[*upstream.Failure](err)
	if !ok {
		return false
	}
	if failure.Op == upstream.OpDial {
		return failure.Unread
	}
	return failure.Sent && (failure.Op == upstream.OpRead || failure.Op == upstream.OpWrite || failure.Op == upstream.OpStale)
}

// unread says whether it is known that a member has not read the request to its end.
func unread(err error) bool {
	failure, ok := errors.AsType[*upstream.Failure](err)
	return ok && failure.Unread
}

// died waits for the news of an engine's death, for as long as that may take.
func died(ctx context.Context, life *upstream.Life, within time.Duration) bool {
	if life == nil {
		return false
	}
	limit := time.NewTimer(within)
	defer limit.Stop()
	select {
	case <-life.Over():
		return true
	case <-limit.C:
	case <-ctx.Done():
	}
	return false
}

// Died is told that a worker's engine has died, before anybody learns of it
// from the worker: what was in flight there since then is suspected.
func (b *Balancer) Died(pool, worker string, since time.Time) {
	if w := b.wardOf(pool); w != nil {
		w.died(worker, since)
	}
}

// Named says what the report of a worker's last death is called.
func (b *Balancer) Named(pool, worker, crash string) {
	if w := b.wardOf(pool); w != nil {
		w.named(worker, crash)
	}
}

// wardOf is a pool's ward, nil where nobody is quarantined.
func (b *Balancer) wardOf(pool string) *ward {
	if b.court == nil {
		return nil
	}
	b.wardsMu.Lock()
	defer b.wardsMu.Unlock()
	w := b.wards[pool]
	if w == nil {
		w = newWard(pool, b.court, &b.evidence, &b.scratch)
		b.wards[pool] = w
	}
	return w
}
