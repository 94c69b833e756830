//go:build keeperv1

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Report is what EndOrphan found and did.
type Report struct {
	// State is the keeper's last written one, zero when it wrote none.
	State State
	// Exit is the engine's, where the keeper lived to see it; else nil.
	Exit *Exit
	// Tail is the engine's last output, where an exit was recorded.
	Tail []byte
	// Orphaned: the keeper had ended the engine for want of an owner.
	Orphaned bool
	// Signalled is how many processes of the tree were still there.
	Signalled int
	// Forced: KILL was needed.
	Forced bool
}

// EndOrphan ends what a dead keeper has left: the engine's tree, by its recorded
// identity, with the intent's stop signal, then KILL after grace; and clears
// the directory. With a tree that is gone already it only reads and clears: it
// is also how a master takes over the exit that an orphaned keeper left.
//
// It is ErrNoKeeper when nothing was left, ErrBusy while a keeper lives,
// ErrForeign when the files contradict each other or are not ours: then nobody is
// signalled and nothing removed. On ctx's end the files stay, for another try.
func EndOrphan(ctx context.Context, dir string, grace time.Duration) (Report, error) {
	r, err := lockAndEnd(ctx, dir, grace)
	if err != nil {
		return r, fmt.Errorf("end what the keeper in %s left: %w", dir, err)
	}
	return r, nil
}

func lockAndEnd(ctx context.Context, dir string, grace time.Duration) (Report, error) {
	if err := checkDir(dir); err != nil {
		return Report{}, err
	}
	lock, err := awaitLock(ctx, dir)
	if err != nil {
		return Report{}, err
	}
	r, err := endOrphan(ctx, dir, grace)
	return r, errors.Join(err, lock.Close())
}

// awaitLock takes the lock of a keeper that is dead or dying: the kernel closes
// a killed process's files last opened first, so that its connections end a
// moment before its lock is free.
func awaitLock(ctx context.Context, dir string) (*os.File, error) {
	for began := time.Now(); ; {
		lock, err := takeLock(dir)
		if !errors.Is(err, ErrBusy) || time.Since(began) > settleWithin {
			return lock, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// endOrphan is EndOrphan for one who holds the lock.
func endOrphan(ctx context.Context, dir string, grace time.Duration) (Report, error) {
	var r Report
	o, err := readRemains(dir, &r)
	if err != nil {
		return r, err
	}
	if err := o.end(ctx, grace, &r); err != nil {
		return r, err
	}
	return r, clearFiles(dir)
}

// remains is a tree without a keeper, as its files describe it.
type remains struct {
	nonce      string
	sig        syscall.Signal
	engine     process // pid and start; zero when it is not known
	recorded   map[recorded]bool
	session    int // the keeper's; 0 when it is not known
	pipes      []uint64
	otherBoot  bool
	terminated map[process]bool
}

// readRemains reads all that was left, and trusts nothing that does not agree.
func readRemains(dir string, r *Report) (*remains, error) {
	var intent Intent
	if err := readFile(dir, intentName, &intent); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKeeper, err)
	} else if err != nil {
		return nil, err
	}
	var state stateRecord
	if err := readFile(dir, stateName, &state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	exit, err := ReadExit(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var tree treeRecord
	if err := readFile(dir, treeName, &tree); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for name, nonce := range map[string]string{stateName: state.Nonce, exitName: exit.State.Nonce, treeName: tree.Nonce} {
		if nonce != "" && nonce != intent.Nonce {
			return nil, fmt.Errorf("%w: %s and %s are of different keepers", ErrForeign, intentName, name)
		}
	}
	r.State, r.Exit, r.Tail, r.Orphaned = state.State, exit.State.Exit, exit.Tail, exit.Orphaned
	if exit.State.Seq >= state.Seq && exit.State.Exit != nil {
		r.State = exit.State
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	o := &remains{
		nonce: intent.Nonce, sig: syscall.Signal(intent.StopSignal), pipes: state.Pipes,
		recorded:  make(map[recorded]bool),
		otherBoot: state.BootID != "" && state.BootID != boot, terminated: make(map[process]bool),
	}
	for _, p := range tree.Processes {
		o.recorded[p] = state.BootID == boot // a pid and a start time mean nothing without the boot
	}
	if o.sig == 0 {
		o.sig = syscall.SIGTERM
	}
	if state.KeeperPID > 1 {
		o.session = state.KeeperPID
	}
	if state.EnginePID > 1 && state.BootID == boot && state.EngineStart > 0 {
		o.engine = process{pid: state.EnginePID, start: state.EngineStart}
	}
	return o, nil
}

// end signals what is left until nothing is.
func (o *remains) end(ctx context.Context, grace time.Duration, r *Report) error {
	if o.otherBoot {
		return nil // the machine was restarted: whatever has those numbers is a stranger
	}
	deadline := time.Now().Add(grace)
	pause := firstRound
	for {
		all, err := listProcesses()
		if err != nil {
			return err
		}
		mine := o.members(all)
		if len(mine) == 0 {
			return nil
		}
		kill := !time.Now().Before(deadline)
		failed := o.round(mine, kill, r) // no reason to spare the others, nor to stop trying
		if err := await(ctx, mine[0], pause); err != nil {
			return fmt.Errorf("%d processes are left (pid %d): %w", len(mine), mine[0].pid, errors.Join(err, failed))
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// round asks each once, or kills all.
func (o *remains) round(mine []process, kill bool, r *Report) error {
	var errs []error
	for _, p := range mine {
		known := process{pid: p.pid, start: p.start}
		first := !o.terminated[known]
		o.terminated[known] = true
		var sent bool
		var err error
		switch {
		case kill:
			sent, err = p.send(syscall.SIGKILL)
			r.Forced = r.Forced || sent
		case first:
			sent, err = p.send(o.sig, syscall.SIGCONT)
		}
		if first && sent {
			r.Signalled++
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// members are the processes of all that are proven to be of the tree; doc.go
// says by what. A session that holds one of them is wholly ours: it was begun by the
// keeper or by one of its descendants.
func (o *remains) members(all []process) []process {
	proven, sessions := make(map[int]bool), make(map[int]bool)
	prove := func(p process) {
		proven[p.pid] = true
		if p.session > 1 {
			sessions[p.session] = true
		}
	}
	own, _ := unix.Getsid(0) // our own session is none of the tree's, whatever the files say
	for _, p := range all {
		if p.pid > 1 && p.session != own && o.isProven(p) {
			prove(p)
		}
	}
	for grown := len(proven) > 0; grown; {
		grown = false
		for _, p := range all {
			if !proven[p.pid] && p.session != own && (proven[p.ppid] || sessions[p.session]) {
				prove(p)
				grown = true
			}
		}
	}
	var mine []process
	for _, p := range all {
		if proven[p.pid] && !p.zombie {
			mine = append(mine, p)
		}
	}
	return mine
}

// isProven says whether p by itself shows that it is of the tree.
func (o *remains) isProven(p process) bool {
	if p.pid == o.engine.pid && p.start == o.engine.start || o.recorded[recorded{PID: p.pid, Start: p.start}] {
		return true
	}
	if o.session != 0 && p.session == o.session && p.writesTo(o.pipes) {
		return true
	}
	return o.nonce != "" && p.hasEnv(nonceEntry(o.nonce))
}

// await waits until p has ended, at most for the given time.
func await(ctx context.Context, p process, limit time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return nil // it has ended: look again
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}
