package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"stoker/supervisor/keeper"
)

// findLeftover looks whether an engine of an earlier master, or of a start that
// went wrong, is in the slot. One of the same configuration is adopted; any
// other is ended. found is false when the slot is empty.
func (w *worker) findLeftover() (next State, why cause, found bool) {
	dir := w.place.KeeperDir()
	err := w.await(attachTime, false, func(ctx context.Context) (err error) {
		w.engine, err = w.keepers.Attach(ctx, dir)
		if err == nil {
			err = w.engine.Claim(ctx, w.epoch)
		}
		return err
	})
	switch {
	case err == nil:
		w.unsure = false
		next, why = w.adopt()
		return next, why, true
	case errors.Is(err, keeper.ErrNoKeeper):
		w.unsure = false
		return "", cause{}, false
	case errors.Is(err, keeper.ErrKeeperDead):
		return w.sweepSlot()
	}
	if w.engine != nil {
		_ = w.engine.Close()
		w.engine = nil
	}
	return w.slotUnknown(err)
}

// slotUnknown: something is there that cannot be taken over, be it silent,
// forged or another's. It is not touched, and no second engine is started beside it.
func (w *worker) slotUnknown(err error) (next State, why cause, found bool) {
	if w.wish == wishHandOver {
		next, why = w.leave()
		return next, why, true
	}
	if w.wish == wishRun {
		next, why = w.notStarted(fmt.Errorf("what is in %s can be neither taken over nor ended: %w", w.place.KeeperDir(), err))
		return next, why, true
	}
	w.stuck = true
	return Failed, cause{
		reason: reasonNotStarted,
		text:   "what the slot holds can be neither taken over nor ended, and may go on: " + err.Error(),
		details: []any{
			"keeper_dir", w.place.KeeperDir(),
			"advice", "its keeper ends it by itself after orphan_timeout",
		},
	}, true
}

// sweepSlot ends what a keeper left that ended while no master ran, and reports
// what it had written down.
func (w *worker) sweepSlot() (next State, why cause, found bool) {
	report, err := w.sweep()
	if err != nil {
		return w.slotUnknown(err)
	}
	w.unsure, w.used = false, true
	if w.wish != wishRun {
		return "", cause{}, false
	}
	switch {
	case report.Orphaned:
		why = cause{reason: reasonChanged, text: "had been ended by its keeper, as no master came within orphan_timeout"}
	case report.Exit != nil:
		why = exitCause(report.Exit)
		why.text += " while no master ran"
	default:
		why = cause{reason: reasonKeeperLost, text: "its keeper was killed while no master ran; what was left of it was ended"}
	}
	if report.Exit != nil || report.State.EnginePID != 0 {
		w.lastExit = newExitStatus(report.Exit)
		why.details = append(why.details, w.mourn(report.State, why, report.Tail)...)
	}
	next, why = w.afterDeath(why, report.Exit, report.Tail)
	return next, why, true
}

// adopt decides what becomes of a leftover engine that is proven to be ours.
func (w *worker) adopt() (State, cause) {
	facts := w.engine.State()
	w.address, w.adopted = facts.Label[labelAddress], true
	switch {
	case w.ended():
		why := exitCause(facts.Exit)
		why.text += " while no master ran"
		return Stopping, why
	case w.wish == wishStop:
		return Stopping, wished()
	case w.address == "" || facts.Label[labelFingerprint] != w.place.Fingerprint():
		return Stopping, cause{reason: reasonChanged, text: "left by an earlier master with another configuration"}
	}
	w.place.Occupy(w.address)
	w.turns.force()
	w.turn = true
	if facts.Phase == keeper.Starting {
		// Its keeper is about to execute it. An engine that answered before its
		// keeper had told its pid was shown with none for as long as it ran.
		return w.executed()
	}
	w.occupy()
	return Loading, progress("adopted from an earlier master")
}

// Grace for engines whose pool is no longer configured: nobody says how long
// theirs may take, so it is what a pool has by default.
const leftoverGrace = 30 * time.Second

// leftoverDirs are the keepers' directories below root that belong to no
// worker of ours.
func leftoverDirs(root string, ours map[string]bool) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for leftovers of an earlier master: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && !ours[e.Name()] {
			dirs = append(dirs, filepath.Join(root, e.Name()))
		}
	}
	return dirs, nil
}

// endLeftover ends an engine that no worker of ours wants, and removes its directory.
// hurry, once closed, ends the grace. A stranger's files are left alone.
func endLeftover(k keepers, dir string, epoch uint64, hurry <-chan struct{}) (Leftover, error) {
	found := Leftover{Worker: filepath.Base(dir)}
	ctx, cancel := context.WithTimeout(context.Background(), leftoverGrace+killLimit)
	defer cancel()
	e, err := k.Attach(ctx, dir)
	switch {
	case err == nil:
		defer func() { _ = e.Close() }()
		if err := stopLeftover(ctx, e, epoch, hurry); err != nil {
			return found, fmt.Errorf("end the leftover engine in %s: %w", dir, err)
		}
		last := e.State()
		found.PID, found.exit = last.EnginePID, last.Exit
		found.Ran = last.EnginePID != 0
	case errors.Is(err, keeper.ErrKeeperDead):
		report, err := k.EndOrphan(ctx, dir, orphanGrace)
		if err != nil {
			return found, fmt.Errorf("end the leftover engine in %s, whose keeper was killed: %w", dir, err)
		}
		found.PID, found.exit = report.State.EnginePID, report.Exit
		found.Ran, found.killed = report.Signalled > 0, report.Forced
	case errors.Is(err, keeper.ErrNoKeeper):
	default:
		return found, fmt.Errorf("attach to the leftover in %s: %w", dir, err)
	}
	return found, os.RemoveAll(dir)
}

// tidy removes the directories of a worker that is to run no more, as far as
// nothing is in them: what an engine has left in its own is not ours to remove.
func (s *Supervisor) tidy(worker string) {
	s.mu.Lock()
	c := s.config
	s.mu.Unlock()
	if err := keeper.Tidy(c.KeeperDir(worker)); err != nil {
		s.log.Debug("a keeper's directory is left", "worker", worker, "error", err)
	}
	_ = os.Remove(c.EngineDir(worker)) // it is not there, or not empty
}

// tidyAll removes the directories of all workers, and what held them.
func (s *Supervisor) tidyAll() {
	for _, w := range s.workers() {
		s.tidy(w.name)
	}
	s.mu.Lock()
	c := s.config
	s.mu.Unlock()
	for _, dir := range []string{c.KeeperDir("any"), c.EngineDir("any")} {
		_ = os.Remove(filepath.Dir(dir)) // it is not there, or not empty
	}
}

// stopLeftover stops one engine and waits until nothing of it is left.
func stopLeftover(ctx context.Context, e engine, epoch uint64, hurry <-chan struct{}) error {
	if err := e.Claim(ctx, epoch); err != nil {
		return err
	}
	order := beside(leftoverGrace+killLimit, func(ctx context.Context) error {
		return e.Stop(ctx, syscall.SIGTERM, leftoverGrace)
	})
	defer func() { order.abandon() }()
	for e.State().Phase != keeper.Ended {
		select {
		case <-e.Updates():
		case <-e.Lost():
			return errors.New("its keeper went away meanwhile")
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-order.result():
			if err != nil && e.State().Phase != keeper.Ended {
				return err
			}
			order = nil
		case <-hurry:
			hurry = nil
			order.abandon()
			// No grace instead of KILL as the signal: the exit shall say that it was forced.
			order = beside(killLimit, func(ctx context.Context) error { return e.Stop(ctx, syscall.SIGTERM, 0) })
		}
	}
	return e.Ack(ctx)
}
