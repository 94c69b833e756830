package supervisor

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/supervisor/keeper"
)

// spawner is the real way to keepers.
type spawner struct {
	argv []string // becomes a keeper; "--dir DIR" is appended
	// stderr takes the engines' output; nil: that of engines which are found
	// goes on to where it went.
	stderr *os.File
	log    hclog.Logger
}

func (s *spawner) Spawn(ctx context.Context, l launch) (engine, error) {
	c, err := keeper.Spawn(ctx, keeper.SpawnOptions{Argv: s.argv, Dir: l.dir, Intent: l.intent, Stderr: s.stderr})
	if err != nil {
		return nil, err // and no interface that holds a nil pointer
	}
	return c, nil
}

func (s *spawner) Attach(ctx context.Context, dir string) (engine, error) {
	deadline := time.Now().Add(lockLimit)
	for {
		c, err := keeper.Attach(ctx, dir)
		switch {
		case err == nil && s.stderr == nil:
			return c, nil
		case err == nil:
			return &found{Client: c, stderr: s.stderr, log: s.log}, nil
		case !errors.Is(err, keeper.ErrLost) || time.Now().After(deadline):
			return nil, err
		}
		if !pause(ctx) { // it is dying: a moment later it is dead
			return nil, err
		}
	}
}

// found is an engine that an earlier master left, whose output goes where that
// one's log went: to a terminal that is not ours, or that nobody has open any more.
type found struct {
	*keeper.Client
	stderr *os.File
	log    hclog.Logger
}

// Claim makes this master the owner, and the engine's output follow it.
func (f *found) Claim(ctx context.Context, epoch uint64) error {
	if err := f.Client.Claim(ctx, epoch); err != nil {
		return err
	}
	err := f.Log(ctx, f.stderr)
	switch {
	case err == nil:
	case errors.Is(err, keeper.ErrUnsupported):
		f.log.Debug("an engine's output stays where the master before had it: its keeper is older than this", "worker", f.State().Name)
	default:
		f.log.Warn("an engine's output stays where the master before had it", "worker", f.State().Name, "error", err)
	}
	return nil
}

// How long a killed keeper may still hold its lock and its socket: the kernel
// closes a process's descriptors one after another.
const (
	lockPause = 10 * time.Millisecond
	lockLimit = time.Second
)

// pause waits for lockPause, and reports false when ctx ends before.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(lockPause):
		return true
	}
}

func (s *spawner) EndOrphan(ctx context.Context, dir string, grace time.Duration) (*keeper.Report, error) {
	deadline := time.Now().Add(lockLimit)
	for {
		report, err := keeper.EndOrphan(ctx, dir, grace)
		switch {
		case err == nil:
			return &report, nil
		case errors.Is(err, keeper.ErrNoKeeper):
			return &keeper.Report{}, nil
		case !errors.Is(err, keeper.ErrBusy) || time.Now().After(deadline):
			return nil, err
		}
		if !pause(ctx) {
			return nil, err
		}
	}
}
