package supervisor

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"stoker/config"
	"stoker/supervisor/keeper"
)

// Leftover is what was found in one keeper's directory, and what became of it.
type Leftover struct {
	// Worker had the engine.
	Worker string
	// PID of the engine's first process; 0 when none is known.
	PID int
	// Ran: something of the engine was still there, and has been ended. Else
	// only files were, and they are gone.
	Ran bool

	exit   *keeper.Exit
	killed bool
}

// Exit says how the engine ended, as the end of "the engine …".
func (l *Leftover) Exit() string { return describeExit(l.exit) }

// Killed says that it did not end by itself within its grace.
func (l *Leftover) Killed() bool { return l.killed || l.exit != nil && l.exit.Forced }

// Reap ends every engine that earlier masters left in runDir, all at once, and
// removes what they wrote. It is for a stack that shall not run any more, where
// no master comes to adopt them. The caller holds the run directory's lock. When
// ctx ends all grace is over: what still lives is killed.
//
// It returns what it found, in the order of the directories' names, and the
// errors of those that it could neither take over nor end; nobody whose identity
// is not proven is signalled.
func Reap(ctx context.Context, runDir string) ([]Leftover, error) {
	places := config.Config{RunDir: runDir}
	dirs, err := leftoverDirs(filepath.Dir(places.KeeperDir("any")), nil)
	if err != nil || len(dirs) == 0 {
		return nil, err
	}
	epoch, err := NextEpoch(runDir)
	if err != nil {
		return nil, err
	}
	found, errs := make([]Leftover, len(dirs)), make([]error, len(dirs))
	var all sync.WaitGroup
	for i, dir := range dirs {
		all.Go(func() {
			found[i], errs[i] = endLeftover(&spawner{}, dir, epoch, ctx.Done())
			if errs[i] == nil {
				s := slot{socket: places.EngineSocket(found[i].Worker)}
				_ = s.removeSocket() // nobody listens there any more, and nobody minds
			}
		})
	}
	all.Wait()
	ended := found[:0]
	for i := range found {
		if errs[i] == nil {
			ended = append(ended, found[i])
		}
	}
	return ended, errors.Join(errs...)
}
