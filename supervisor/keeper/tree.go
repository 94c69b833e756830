package keeper

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidfdGroup asks pidfd_send_signal for the whole group that the process leads
// (or led: the group outlives it). Linux 6.9; older ones say EINVAL.
const pidfdGroup = 1 << 2

const (
	// leftoverGrace is the most that processes get which the engine leaves behind.
	leftoverGrace = 5 * time.Second
	firstRound    = 10 * time.Millisecond
	slowestRound  = time.Second
	// firstLook and slowestLook are the pace of taking down who is there: quick
	// while the tree changes, next to nothing when it does not.
	firstLook   = 250 * time.Millisecond
	slowestLook = 15 * time.Second
	// calm is the pace from which on there is little to do.
	calm = time.Second
	// youth is when most engines that cannot start have died.
	youth = 5 * time.Second
)

// tree is the engine and everything below it, as its parent and subreaper sees
// it. It belongs to one goroutine, the one that reaps: between two reaps no
// child's pid can be given to anybody else.
type tree struct {
	pid    int // the engine's, which is also its group
	pidfd  int
	reaped bool // the first process has been waited for

	killing bool
	forced  bool // a KILL has reached somebody
	pause   time.Duration
	slow    int // rounds at the slowest pace
	seen    map[int]uint64
}

// reap waits for whoever has ended. It calls engine with the first process's
// status, once, and says whether nothing at all is left.
func (t *tree) reap(engine func(syscall.WaitStatus)) (gone bool, err error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return true, nil
		case err != nil:
			return false, err
		case pid == 0:
			return false, nil
		case pid == t.pid && !t.reaped:
			t.reaped = true
			engine(status)
		}
	}
}

// first signals the engine's first process alone.
func (t *tree) first(sig syscall.Signal) error {
	if t.pid == 0 || t.reaped {
		return ErrNotRunning
	}
	return syscall.Kill(t.pid, sig)
}

// group signals the engine's process group, at once for all of it: nobody in it
// can fork its way out. It says whether there was anybody.
func (t *tree) group(sig syscall.Signal) bool {
	switch {
	case t.pid == 0:
		return false
	case !t.reaped:
		return syscall.Kill(-t.pid, sig) == nil
	case t.pidfd >= 0:
		return unix.PidfdSendSignal(t.pidfd, sig, nil, pidfdGroup) == nil
	default:
		return false // the number may be somebody else's by now; each is found by descent
	}
}

// ask sends sig to the group and wakes whoever is stopped.
func (t *tree) ask(sig syscall.Signal) {
	t.group(sig)
	t.group(syscall.SIGCONT)
}

// look lists everybody below the keeper who lives, as of now.
func look() ([]process, error) {
	all, err := listProcesses()
	if err != nil {
		return nil, fmt.Errorf("look for the engine's processes: %w", err)
	}
	return below(all, os.Getpid()), nil
}

// askEach sends TERM to those that were seen.
func askEach(seen []process) error {
	var errs []error
	for _, p := range seen {
		_, err := p.send(syscall.SIGTERM, syscall.SIGCONT)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killRound kills everybody there is, and says when the next round is due:
// a process may have forked just before it was seen.
func (t *tree) killRound() (next time.Duration, left int, err error) {
	t.killing = true
	t.forced = t.group(syscall.SIGKILL) || t.forced
	there, err := look()
	if err != nil {
		return slowestRound, 0, err
	}
	fresh := false
	seen := make(map[int]uint64)
	var errs []error
	for _, p := range there {
		fresh = fresh || t.seen[p.pid] != p.start
		seen[p.pid] = p.start
		sent, err := p.send(syscall.SIGKILL)
		t.forced = t.forced || sent
		errs = append(errs, err)
	}
	t.seen = seen
	if fresh || t.pause == 0 {
		t.pause, t.slow = firstRound, 0
	} else {
		t.pause = min(2*t.pause, slowestRound)
	}
	if t.pause < slowestRound {
		return t.pause, 0, errors.Join(errs...)
	}
	if t.slow++; t.slow > 1 {
		left = len(seen)
	}
	return t.pause, left, errors.Join(errs...)
}
