package supervisor

import (
	"context"
	"errors"
	"time"

	"stoker/config"
)

// vigil asks one ready upstream again and again how it is, and judges. It
// belongs to the goroutine that owns the upstream's state; round and canary may
// run beside it, one at a time each.
type vigil struct {
	health config.Health
	member member
	checks *checks
	judge  *judge
	signs  *signs
	ears   *ears
	// stopped says that its process is; nil: there is none of ours.
	stopped func() bool
	failure func(kind, reason string) // counts
	tell    func(*Health)
	warn    func(err error) // of a canary that proves nothing, once
	// wary: it was found silent, so that only a canary can show that it is well.
	wary bool
	// doubts there are about questions: see question.go.
	doubts doubts
}

func newVigil(h config.Health, m member, c *checks) *vigil {
	v := &vigil{health: h, member: m, checks: c, signs: new(signs), failure: func(string, string) {}, tell: func(*Health) {}, warn: func(error) {}}
	v.ears = newEars(v.signs)
	v.judge = newJudge(h, m, v.signs)
	c.gauge.begin(m)
	return v
}

// end lets go of everything. A doubt stays until somebody else judges, or the
// member leaves the pool: those who wait would rush to an engine that is about
// to be killed.
func (v *vigil) end() {
	v.ears.end()
	v.checks.gauge.end()
	v.tell(nil)
}

// prepare is called before each round by the owner.
func (v *vigil) prepare() func(context.Context) error {
	quiet := v.question() || !v.judge.moved()
	v.judge.asks()
	switch {
	case v.wary && v.checks.canary != nil:
		return v.canary
	case v.checks.kind == kindCanary && !quiet:
		return func(context.Context) error { return nil } // its answers say more than a canary
	}
	return func(ctx context.Context) error { return v.round(ctx, quiet) }
}

// round probes once, and reads the metrics page if nothing else comes.
func (v *vigil) round(ctx context.Context, quiet bool) error {
	if v.stopped != nil && v.stopped() {
		return v.awaitContinued(ctx)
	}
	if v.checks.page == nil || !quiet {
		return v.ears.ask(ctx, v.checks)
	}
	read := beside(v.checks.timeout, func(ctx context.Context) error {
		v.checks.page.read(ctx, v.signs)
		return nil
	})
	defer read.abandon()
	err := v.ears.ask(ctx, v.checks)
	if err != nil { // what the page says may excuse it
		select {
		case <-read.ended:
		case <-ctx.Done():
		}
	}
	return err
}

// awaitContinued gives a stopped process as long as a probe has.
func (v *vigil) awaitContinued(ctx context.Context) error {
	select {
	case <-time.After(v.checks.timeout):
	case <-ctx.Done():
	}
	if !v.stopped() {
		return nil
	}
	return failed(failStopped, "its process is stopped (SIGSTOP)")
}

// hear judges a round.
func (v *vigil) hear(err error) verdict {
	kind := v.kind()
	if err != nil {
		v.failure(kind, reasonOf(err))
	} else {
		v.wary = false
	}
	meanwhile := v.judge.came()
	found := v.judge.hear(err)
	v.answers(err, kind, meanwhile)
	return v.concluded(found)
}

// kind of the present rounds.
func (v *vigil) kind() string {
	if v.wary && v.checks.canary != nil {
		return kindCanary
	}
	return v.checks.kind
}

// stalled says that a canary is to be sent besides.
func (v *vigil) stalled() bool {
	return v.checks.canary != nil && v.judge.stalled() || v.mayCall()
}

// call is called before that.
func (v *vigil) call() {
	v.calls()
	v.concluded(unclear)
}

// canary sends it.
func (v *vigil) canary(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.health.Canary.Timeout.Std())
	defer cancel()
	return v.checks.canary(ctx)
}

// hearCanary judges what came of it.
func (v *vigil) hearCanary(err error) verdict {
	if err != nil {
		v.failure(kindCanary, reasonOf(err))
	}
	if errors.Is(err, errNoProof) {
		v.warn(err)
		v.warn = func(error) {}
	}
	v.answersCanary(err)
	found := v.judge.hearCanary(err)
	v.wary = found == hung
	return v.concluded(found)
}

// concluded tells who wants to know.
func (v *vigil) concluded(found verdict) verdict {
	v.member.Doubt(v.judge.doubtful())
	v.say()
	return found
}

func (v *vigil) say() {
	now := v.judge.health()
	if v.isQuestioned() && v.judge.bad == 0 && !v.judge.calling {
		now = Health{"questioned", "a stream on it fell silent, or ended too early; it is asked whether it is well"}
	}
	v.tell(&now)
}

// pause is until the next round: who is doubted is asked again sooner.
func (v *vigil) pause() time.Duration {
	interval := max(v.health.Interval.Std(), firstPause)
	if v.judge.bad > 0 {
		interval = max(interval/2, firstPause)
	}
	if left := v.health.StallTimeout.Std() - v.judge.silence(); v.checks.canary != nil && v.judge.silence() > 0 && left > 0 {
		interval = min(interval, max(left, firstPause))
	}
	return interval
}
