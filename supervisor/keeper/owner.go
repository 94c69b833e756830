package keeper

import (
	"fmt"
	"syscall"
	"time"
)

// join takes a connection in: hello first, then it may speak.
func (k *keeper) join(c *conn, owner bool) {
	hello := frame{Op: opHello, Min: minVersion, Max: maxVersion, KeeperStart: k.keeperStart}
	s := k.state
	hello.State = &s
	if len(k.conns) >= maxConns {
		hello.refuse(errTooMany)
	}
	b, err := hello.encode()
	if err == nil {
		c.send(b)
	}
	if err != nil || hello.Error != "" {
		close(c.out)
		k.srv.wg.Go(c.write)
		return
	}
	k.conns[c] = struct{}{}
	if owner {
		k.owner = c
	}
	k.srv.start(c)
}

// leave forgets a connection, whose reader has ended.
func (k *keeper) leave(c *conn) {
	if _, known := k.conns[c]; !known {
		return
	}
	delete(k.conns, c)
	close(c.out)
	if k.owner == c {
		k.owner = nil
		k.watchOwner()
	}
}

// serve does what a connection asks and answers.
func (k *keeper) serve(r request) {
	defer func() { r.fd.close() }() // where nobody had use for it
	if _, known := k.conns[r.from]; !known {
		return
	}
	reply := frame{Op: opReply, ID: r.ID}
	if err := k.do(&r, &reply); err != nil {
		reply.refuse(err)
	}
	s := k.state
	reply.State = &s
	b, err := reply.encode()
	if err != nil || !r.from.send(b) {
		k.leave(r.from) // it asks faster than it reads
		return
	}
	if r.Op == opBad {
		k.leave(r.from)
	}
}

func (k *keeper) do(r *request, reply *frame) error {
	switch r.Op {
	case opHello:
		v, err := commonVersion(r.Min, r.Max)
		reply.Min, reply.Max, r.from.version = v, v, v
		return err
	case opClaim:
		return k.claim(r.from, r.Epoch)
	case opTail:
		reply.Tail = k.out.last()
		return nil
	case opStop, opSignal, opAck, opLog, opHold:
		if r.Op == opLog && r.from.version < logVersion {
			return fmt.Errorf("%w: %s needs version %d", ErrUnsupported, r.Op, logVersion)
		}
		if r.from != k.owner {
			return fmt.Errorf("%w: %s is for the owner, of epoch %d", ErrNotOwner, r.Op, k.state.Epoch)
		}
		return k.obey(r)
	case opBad:
		return fmt.Errorf("%w: %s", errBadFrame, r.Message)
	default:
		return fmt.Errorf("%w: %.40q", ErrUnsupported, r.Op)
	}
}

// obey does what only the owner may ask.
func (k *keeper) obey(r *request) error {
	switch r.Op {
	case opAck:
		return k.ack()
	case opHold:
		k.out.hold(r.Grace)
		return nil
	case opLog:
		if err := r.fd.writable(); err != nil {
			return err
		}
		k.out.redirect(r.fd)
		r.fd = nil // the output's now
		return nil
	}
	if r.Signal < 1 || r.Signal > 64 {
		return fmt.Errorf("%w: %d", errBadSignal, r.Signal)
	}
	sig := syscall.Signal(r.Signal)
	if r.Op == opSignal {
		return k.tree.first(sig)
	}
	k.stop(sig, r.Grace)
	return nil
}

// claim makes c the owner, unless another has a better claim.
func (k *keeper) claim(c *conn, epoch uint64) error {
	if epoch < k.state.Epoch || epoch == k.state.Epoch && k.owner != nil && k.owner != c {
		return fmt.Errorf("%w: claimed %d, the owner's is %d", ErrStaleEpoch, epoch, k.state.Epoch)
	}
	k.owner = c
	if epoch != k.state.Epoch {
		k.change(func(s *State) { s.Epoch = epoch })
	}
	k.watchOwner()
	if k.state.Phase == Running && k.pace > calm {
		k.pace = calm // what the new owner makes us touch is given back soon
		k.survey.Reset(calm)
	}
	return nil
}

// ack ends the keeper: the exit is known, the files have served.
func (k *keeper) ack() error {
	if k.state.Phase != Ended {
		return fmt.Errorf("%w: it is %s", ErrNotEnded, k.state.Phase)
	}
	if err := clearFiles(k.dir); err != nil {
		k.out.say("cannot remove its files: %v", err)
	}
	k.acked = true
	return nil
}

// watchOwner counts the time without an owner.
func (k *keeper) watchOwner() {
	k.orphan.Stop()
	if k.owner == nil && k.intent.OrphanTimeout > 0 {
		k.orphan.Reset(k.intent.OrphanTimeout)
	}
}

// onOrphan is the end of waiting for an owner.
func (k *keeper) onOrphan() {
	k.out.say("no master for %s: ending the engine", k.intent.OrphanTimeout)
	k.endAsOrphan(k.intent.StopGrace)
}

// onTerm is TERM or INT to the keeper itself.
func (k *keeper) onTerm() {
	if k.owner != nil {
		k.out.say("a signal to end was ignored: the master decides (pid %d is the engine)", k.state.EnginePID)
		return
	}
	grace := k.intent.StopGrace
	if k.orphaned {
		grace = 0 // a second one hurries
	}
	k.endAsOrphan(grace)
}

// endAsOrphan ends the engine, and the keeper after it.
func (k *keeper) endAsOrphan(grace time.Duration) {
	k.orphaned = true
	if k.state.Phase == Ended {
		k.leaveOrphaned()
		return
	}
	sig := syscall.Signal(k.intent.StopSignal)
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	k.stop(sig, grace)
}

// leaveOrphaned ends the keeper without an ack. The record is written once more:
// the disk may have had no room before.
func (k *keeper) leaveOrphaned() {
	k.left = true
	k.record()
	if err := removeFile(k.dir + "/" + socketName); err != nil {
		k.out.say("%v", err)
	}
}
