package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
	"stoker/supervisor/keeper"
)

// The tests of the state machine run in synctest bubbles: fakes and channels
// only, no socket and no process, so a start time-out of twenty minutes takes
// no time and every elapsed time is exact.

// behaviour is what an engine of the fake keepers does.
type behaviour struct {
	spawnFails bool          // the keeper never says hello
	execError  string        // the command cannot be executed
	loads      time.Duration // until its probes are good
	lives      time.Duration // from its start to its own end; 0: until it is stopped
	exit       keeper.Exit   // how it ends by itself
	leaves     time.Duration // how long its children outlive it
	ends       time.Duration // from TERM to its end
	deaf       bool          // TERM does nothing
	immortal   bool          // nor does KILL
	loseKeeper time.Duration // from its start to the end of its keeper
	sickFrom   time.Duration // from its start: probes fail again
	refuses    bool          // and nobody listens, when sick
	complains  bool          // and they are answered, when sick
	lateBy     time.Duration // how late a sick one answers; 0: never
	stoppedAt  time.Duration // from its start: SIGSTOP
	sings      time.Duration // how long it takes over a canary
	muteFrom   time.Duration // from its start: canaries get no answer
	unsure     bool          // canaries are told that there are too many
	speaks     [2]int        // versions of the protocol
}

// fakeEngine is one running engine with its keeper.
type fakeEngine struct {
	behaviour
	born    time.Time
	updates chan struct{}
	lost    chan struct{}

	mu       sync.Mutex
	state    keeper.State
	stops    []string
	holds    []time.Duration
	canaries int
	acked    bool
	closed   bool
	killer   *time.Timer
}

func newFakeEngine(b behaviour, pid int, l launch) *fakeEngine {
	e := &fakeEngine{behaviour: b, born: time.Now(), updates: make(chan struct{}, 1), lost: make(chan struct{})}
	e.state = keeper.State{
		Phase: keeper.Running, Name: l.intent.Name, KeeperPID: pid, EnginePID: pid + 1,
		StartedAt: e.born, Epoch: l.intent.Epoch, Label: l.intent.Label,
	}
	switch {
	case b.execError != "":
		e.state.EnginePID, e.state.StartedAt = 0, time.Time{}
		e.finish(keeper.Exit{Code: -1, Error: b.execError})
	case b.lives > 0:
		time.AfterFunc(b.lives, func() { e.finish(b.exit) })
	}
	if b.loseKeeper > 0 {
		time.AfterFunc(b.loseKeeper, func() { close(e.lost) })
	}
	return e
}

// finish is the end of the first process, and later of the tree.
func (e *fakeEngine) finish(x keeper.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Exit != nil {
		return
	}
	x.At = time.Now()
	e.state.Exit = &x
	e.state.Phase = keeper.Ending
	if e.leaves > 0 {
		time.AfterFunc(e.leaves, e.gone)
	} else {
		e.state.Phase = keeper.Ended
	}
	e.notify()
}

func (e *fakeEngine) gone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.Phase = keeper.Ended
	e.notify()
}

func (e *fakeEngine) notify() {
	select {
	case e.updates <- struct{}{}:
	default:
	}
}

func (e *fakeEngine) State() keeper.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}
func (e *fakeEngine) Versions() (lowest, highest int) { return e.speaks[0], e.speaks[1] }

func (e *fakeEngine) Updates() <-chan struct{} { return e.updates }
func (e *fakeEngine) Lost() <-chan struct{}    { return e.lost }

func (e *fakeEngine) Claim(_ context.Context, epoch uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if epoch <= e.state.Epoch {
		return keeper.ErrStaleEpoch
	}
	e.state.Epoch = epoch
	return nil
}

func (e *fakeEngine) Stop(_ context.Context, sig syscall.Signal, grace time.Duration) error {
	e.mu.Lock()
	e.stops = append(e.stops, fmt.Sprintf("%d/%s", int(sig), grace))
	if e.killer != nil {
		e.killer.Stop()
	}
	e.killer = time.AfterFunc(grace, e.kill)
	e.mu.Unlock()
	if !e.deaf && !e.immortal && grace > 0 {
		time.AfterFunc(e.ends, func() { e.finish(keeper.Exit{Code: 0}) })
	}
	return nil
}

func (e *fakeEngine) kill() {
	if !e.immortal {
		e.finish(keeper.Exit{Code: -1, Signal: int(syscall.SIGKILL), Forced: true})
	}
}

func (e *fakeEngine) Tail(context.Context) ([]byte, error) { return []byte("last words\n"), nil }

func (e *fakeEngine) Hold(_ context.Context, limit time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holds = append(e.holds, limit)
	return nil
}

func (e *fakeEngine) Ack(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Phase != keeper.Ended {
		return keeper.ErrNotEnded
	}
	e.acked = true
	return nil
}

func (e *fakeEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// probe is how the engine answers right now.
func (e *fakeEngine) probe(ctx context.Context) error {
	age := time.Since(e.born)
	switch {
	case e.State().Exit != nil:
		return errRefused
	case age < e.loads:
		return errors.New("503 loading")
	case e.sickFrom > 0 && age >= e.sickFrom && e.refuses:
		return errRefused
	case e.sickFrom > 0 && age >= e.sickFrom && e.complains:
		return errors.New("503 dead inside")
	case e.sickFrom > 0 && age >= e.sickFrom && e.lateBy > 0:
		select {
		case <-time.After(e.lateBy):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case e.sickFrom > 0 && age >= e.sickFrom:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
		return nil
	}
}

// sing is how it answers a canary.
func (e *fakeEngine) sing(ctx context.Context) error {
	e.mu.Lock()
	e.canaries++
	e.mu.Unlock()
	time.Sleep(e.sings)
	switch {
	case e.unsure:
		return failed(failAnswered, "429, %w", errNoProof)
	case e.muteFrom > 0 && time.Since(e.born) >= e.muteFrom:
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

// sung is how many canaries it has had.
func (e *fakeEngine) sung() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.canaries
}

func (e *fakeEngine) isStopped() bool { return e.stoppedAt > 0 && time.Since(e.born) >= e.stoppedAt }

// fakeKeepers spawns engines that behave as the script says, the last entry for ever.
type fakeKeepers struct {
	t      *testing.T
	script []behaviour

	mu        sync.Mutex
	engines   []*fakeEngine
	leftover  engine // found by Attach, once
	attachErr error
	report    keeper.Report
	orphans   int
	orphanErr error
}

func (k *fakeKeepers) Spawn(ctx context.Context, l launch) (engine, error) {
	k.mu.Lock()
	b := k.script[min(len(k.engines), len(k.script)-1)]
	for _, e := range k.engines {
		if s := e.State(); s.Phase != keeper.Ended && !isClosed(e.lost) {
			k.t.Errorf("two engines on one slot: spawned while pid %d is %s", s.EnginePID, s.Phase)
		}
	}
	e := newFakeEngine(b, 100+10*len(k.engines), l)
	k.engines = append(k.engines, e)
	k.mu.Unlock()
	if b.spawnFails {
		e.finish(keeper.Exit{Code: -1})
		<-ctx.Done()
		return nil, fmt.Errorf("no hello: %w", context.Cause(ctx))
	}
	return e, nil
}

func (k *fakeKeepers) Attach(ctx context.Context, _ string) (engine, error) {
	k.mu.Lock()
	e, err := k.leftover, k.attachErr
	k.mu.Unlock()
	if errors.Is(err, errSilent) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, keeper.ErrNoKeeper
	}
	k.leftover = nil
	return e, nil
}

// errSilent: the keeper takes the connection and says nothing.
var errSilent = errors.New("silent")

func (k *fakeKeepers) EndOrphan(context.Context, string, time.Duration) (*keeper.Report, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.orphans++
	k.attachErr = nil
	return &k.report, k.orphanErr
}

// first is the first engine.
func (k *fakeKeepers) first() *fakeEngine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.engines[0]
}

func (k *fakeKeepers) starts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.engines)
}

// fakePlace is a place with no disk.
type fakePlace struct {
	gone     time.Duration // until the gone command succeeds
	prepared int
	fail     error
}

func (p *fakePlace) KeeperDir() string { return "/keepers/w" }
func (p *fakePlace) Prepare(epoch uint64) (launch, error) {
	p.prepared++
	address := fmt.Sprintf("127.0.0.1:%d", 20000+p.prepared)
	return launch{dir: p.KeeperDir(), address: address, intent: keeper.Intent{
		Name: "w", Epoch: epoch, Label: map[string]string{labelAddress: address, labelFingerprint: p.Fingerprint()},
	}}, p.fail
}
func (p *fakePlace) Occupy(string)          {}
func (p *fakePlace) Vacate()                {}
func (p *fakePlace) Configure(*config.Pool) {}
func (p *fakePlace) Fingerprint() string    { return "same" }
func (p *fakePlace) Gone(ctx context.Context) error {
	select {
	case <-time.After(p.gone):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// testPool has the defaults of a real one.
func testPool() *config.Pool {
	p := config.DefaultPool("w")
	p.Command = []string{"engine"}
	return &p
}

// newLife prepares a worker; begin starts it.
func newLife(t *testing.T, p *config.Pool, script ...behaviour) *life {
	t.Helper()
	l := &life{t: t, keepers: &fakeKeepers{t: t, script: script}, place: &fakePlace{}, member: newFakeMember(), began: time.Now()}
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker("w", p, syscall.SIGTERM)
	w.epoch, w.log, w.metrics = 7, hclog.NewNullLogger(), m.worker("w", "w")
	w.keepers, w.place, w.member = l.keepers, l.place, l.member
	w.newChecks = func(h config.Health, _ string) *checks {
		c := newChecks(h, "127.0.0.1:9", manner{}, nil)
		e := l.w.engine.(*fakeEngine)
		c.usual = e.probe
		if c.canary != nil {
			c.canary = e.sing
		}
		return c
	}
	w.stopped = func(int) bool { return l.w.engine.(*fakeEngine).isStopped() }
	w.turns, w.voices, w.luck = &turns{limit: p.MaxStarting}, newVoices(0), func() float64 { return 0 }
	cleared := make(chan struct{})
	close(cleared)
	w.cleared = cleared
	l.w = w
	l.member.onReady = func(ready bool) {
		state := w.published.Load().state
		if ready != (state == Ready) {
			t.Errorf("in the pool: %t, but the worker is %s", ready, state)
		}
		l.note(string(state))
	}
	return l
}

// note records a state and when it was entered; a repeated one is no transition.
func (l *life) note(state string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = append(l.path, fmt.Sprintf("%s %s", state, time.Since(l.began)))
}

func (l *life) begin() { go l.w.run() }

// stop asks for a stop and waits for the worker's end.
func (l *life) stop(r request) {
	l.w.ask(context.Background(), r)
	<-l.w.done
}

// want compares the states entered since the start, first state omitted.
func (l *life) want(states ...string) {
	l.t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.path, states) {
		l.t.Errorf("\n got %q\nwant %q", l.path, states)
	}
}
