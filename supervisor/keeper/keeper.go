package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of a keeper.
const (
	exitAcked    = 0
	exitFailed   = 1 // it could not begin; its stderr says why
	exitOrphaned = 3 // it ended without an ack; exit.json has the record
)

// keeper is the process. All of it belongs to the goroutine of run.
type keeper struct {
	dir    string
	lock   *os.File
	intent Intent
	out    *output
	srv    *server
	conns  map[*conn]struct{}
	owner  *conn // nil while nobody owns

	state       State
	encoded     []byte // state as a frame
	keeperStart uint64
	pipes       []uint64
	tree        tree
	signalled   syscall.Signal // the last one that Stop asked with
	deadline    time.Time      // of the grace; zero while none runs

	signals  chan os.Signal
	children chan os.Signal
	launched chan launched // nil once received
	grace    *time.Timer   // KILL is due
	round    *time.Timer   // the next round of KILL is due
	orphan   *time.Timer   // nobody has owned for OrphanTimeout
	survey   *time.Timer   // the tree is due to be taken down again
	pace     time.Duration // of the survey
	taken    []recorded    // as of the last survey that was recorded

	unrecorded bool // the last survey could not be
	settled    bool // see thrift

	orphaned bool // ending because nobody owns
	acked    bool
	left     bool // leaving without an ack
}

// Main is a keeper's whole life: it executes the engine that dir's intent.json
// describes, and returns the process's exit code when the engine's tree is gone
// and its exit was acknowledged (0), or nobody came to do so (3), or it could
// not begin (1). It is to be called as early as possible in a process that
// does nothing else: it takes over signals, children and memory settings.
func Main(dir string) int {
	signals, children := catchSignals()
	beSmall()
	k := &keeper{
		dir: dir, conns: make(map[*conn]struct{}), signals: signals, children: children,
		grace: idleTimer(), round: idleTimer(), orphan: idleTimer(), survey: idleTimer(),
	}
	spawner, err := k.begin()
	if err != nil {
		fmt.Fprintf(os.Stderr, "stoker keeper: %s: %v\n", dir, err)
		apologise(spawner, err)
		return exitFailed
	}
	return k.run(spawner)
}

func idleTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// run is the one goroutine that decides.
func (k *keeper) run(spawner *net.UnixConn) int {
	k.out = newOutput(k.intent.Name, stderrFD, stdoutFD)
	k.out.hold(k.intent.HoldOutput)
	k.change(nil)
	if spawner != nil {
		k.join(newConn(spawner), true)
	}
	k.watchOwner()
	k.launched = make(chan launched, 1)
	go func(to chan<- launched, i Intent) { to <- launch(&i, k.out) }(k.launched, k.intent)
	for !k.acked && !k.left {
		select {
		case l := <-k.launched:
			k.launched = nil
			k.onLaunched(l)
		case <-k.children:
			k.reap()
		case <-k.signals:
			k.onTerm()
		case c := <-k.srv.joins:
			k.join(c, false)
		case c := <-k.srv.leaves:
			k.leave(c)
		case r := <-k.srv.requests:
			k.serve(r)
		case <-k.grace.C:
			k.kill()
		case <-k.round.C:
			k.kill()
		case <-k.orphan.C:
			k.onOrphan()
		case <-k.survey.C:
			k.takeDown()
		}
	}
	return k.end()
}

// end lets go, in this order: whoever finds our connection closed finds the
// directory free.
func (k *keeper) end() int {
	k.out.close(time.Second)
	_ = k.lock.Close()       // nothing was written
	_ = k.srv.close(k.conns) // the process ends
	if k.acked {
		return exitAcked
	}
	return exitOrphaned
}

// change applies f to the state, writes it down and tells everybody, in that order.
func (k *keeper) change(f func(*State)) {
	if f != nil {
		f(&k.state)
	}
	k.state.Seq++
	k.record()
	s := k.state
	b, err := (&frame{Op: opState, State: &s}).encode()
	if err != nil {
		k.out.say("%v", err)
		return
	}
	k.encoded = b
	for c := range k.conns {
		c.publish(b)
	}
}

// record writes the files that the present phase needs. An exit goes first: it
// is the one fact that nobody else could ever tell again.
func (k *keeper) record() {
	var err error
	if k.state.Exit != nil {
		err = writeFile(k.dir, exitName, ExitRecord{State: k.state, Tail: k.out.last(), Orphaned: k.orphaned})
	}
	err = errors.Join(err, writeFile(k.dir, stateName, stateRecord{State: k.state, KeeperStart: k.keeperStart, Pipes: k.pipes}))
	well := k.state.Degraded == ""
	k.state.Degraded = ""
	if err == nil {
		return
	}
	k.state.Degraded = oneLine(err.Error())
	if well {
		k.out.say("cannot write its files, goes on without: %v", err)
	}
}

// onLaunched takes note of the engine, or of why there is none.
func (k *keeper) onLaunched(l launched) {
	k.pipes = l.pipes
	k.intent.Env = nil // it may be large, and has served
	if l.err != nil {
		k.out.say("cannot start the engine: %v", l.err)
		k.state.Exit = &Exit{Code: -1, Error: l.err.Error(), At: time.Now()}
		k.ended()
		return
	}
	k.tree = tree{pid: l.pid, pidfd: l.pidfd}
	// Until it is reaped its pid is its own, dead or alive.
	p, err := readProcess(l.pid)
	if err != nil {
		k.out.say("cannot look up the engine: %v", err)
	}
	k.change(func(s *State) {
		s.Phase, s.EnginePID, s.EngineStart, s.StartedAt = Running, l.pid, p.start, l.at
	})
	k.survey.Reset(firstLook)
	if k.state.Stopping {
		k.ask(k.signalled)
	}
	k.reap()
}

// reap waits for the dead and moves the phase along.
func (k *keeper) reap() {
	if k.launched != nil || k.state.Phase == Ended {
		return // fork itself waits for a child that cannot execute: it is not ours to take
	}
	var exit *Exit
	gone, err := k.tree.reap(func(status syscall.WaitStatus) {
		exit = &Exit{Code: status.ExitStatus(), Core: status.CoreDump(), At: time.Now(), Forced: k.tree.forced}
		if status.Signaled() {
			exit.Signal = int(status.Signal())
		}
	})
	if err != nil {
		k.out.say("wait: %v", err)
	}
	if exit != nil {
		k.onExit(exit, gone)
	}
	if gone {
		k.ended()
	}
}

// onExit publishes the exit at once and sees to what the engine left behind.
func (k *keeper) onExit(exit *Exit, gone bool) {
	k.change(func(s *State) { s.Phase, s.Exit = Ending, exit })
	k.outcome()
	if gone || k.tree.killing {
		return
	}
	left := k.takeDown() // before anything is done to them: we may be killed over it
	k.tree.ask(syscall.SIGTERM)
	if err := askEach(left); err != nil {
		k.out.say("%v", err)
	}
	k.hurry(min(k.intent.StopGrace, leftoverGrace))
}

// outcome decides about output that is held back: of who was asked to end nobody
// writes a report; of who ended by itself it is in the tail, and is passed on if
// the owner asks for it before the ack.
func (k *keeper) outcome() {
	if k.state.Stopping {
		k.out.letGo()
	} else {
		k.out.keepBack()
	}
}

// takeDown writes who is below us where EndOrphan finds it.
func (k *keeper) takeDown() []process {
	there, err := look()
	if err != nil {
		k.out.say("%v", err)
	}
	now := make([]recorded, 0, len(there))
	for _, p := range there {
		now = append(now, recorded{PID: p.pid, Start: p.start})
	}
	k.thrift()
	k.pace = min(max(2*k.pace, firstLook), slowestLook)
	if err == nil && !slices.Equal(now, k.taken) {
		k.recordTree(now)
	}
	k.survey.Reset(k.pace)
	return there
}

// thrift gives memory back where that pays: not for an engine that dies as soon as it
// has started, again and again, of whose keeper it would be a fifth of the work.
func (k *keeper) thrift() {
	switch old := time.Since(k.state.StartedAt) >= youth; {
	case !old:
	case !k.settled:
		k.settled = true
		beThrifty()
		Shed()
	case k.pace >= calm && k.pace < slowestLook:
		Shed() // all is settling, and may go on so for months
	}
}

func (k *keeper) recordTree(now []recorded) {
	err := writeFile(k.dir, treeName, treeRecord{Nonce: k.intent.Nonce, Processes: now})
	if err == nil {
		k.taken, k.pace, k.unrecorded = now, firstLook, false
		return
	}
	if !k.unrecorded {
		k.out.say("cannot record the engine's processes, tries again: %v", err)
	}
	k.unrecorded = true
}

// ended is the end of the tree.
func (k *keeper) ended() {
	k.grace.Stop()
	k.round.Stop()
	k.survey.Stop()
	k.out.wait(500 * time.Millisecond)
	k.outcome()
	if k.tree.pidfd > 0 {
		_ = unix.Close(k.tree.pidfd) // nothing was written
	}
	k.change(func(s *State) {
		exit := *s.Exit // published ones are not changed
		exit.Forced = k.tree.forced
		s.Phase, s.Exit, s.Left = Ended, &exit, 0
	})
	if k.owner == nil && k.orphaned {
		k.leaveOrphaned()
	}
}

// stop begins the end, or hurries it.
func (k *keeper) stop(sig syscall.Signal, grace time.Duration) {
	if k.state.Phase == Ended {
		return
	}
	if !k.state.Stopping {
		k.change(func(s *State) { s.Stopping = true })
	}
	if sig != k.signalled {
		k.signalled = sig
		k.ask(sig)
	}
	k.hurry(max(0, grace))
}

// ask passes a stop signal on, once there is somebody to take it.
func (k *keeper) ask(sig syscall.Signal) {
	if k.state.Phase == Running {
		k.tree.ask(sig)
	}
}

// hurry makes KILL due after grace, if it is not due before.
func (k *keeper) hurry(grace time.Duration) {
	due := time.Now().Add(grace)
	if k.tree.killing || !k.deadline.IsZero() && k.deadline.Before(due) {
		return
	}
	k.deadline = due
	k.grace.Reset(grace)
}

// kill is one round of KILL, and arranges for the next.
func (k *keeper) kill() {
	if k.launched != nil {
		k.round.Reset(firstRound) // it is being executed: at once when it is there
		return
	}
	k.reap() // who has ended by itself was not forced
	if k.state.Phase == Ended {
		return
	}
	next, left, err := k.tree.killRound()
	if err != nil {
		k.out.say("%v", err)
	}
	if left != k.state.Left {
		k.change(func(s *State) { s.Left = left })
	}
	k.round.Reset(next)
	k.reap()
}
