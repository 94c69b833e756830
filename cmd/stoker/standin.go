package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
	"stoker/internal/systemd"
)

// A master may die while it hands over, before the service manager knows of its
// successor. The manager sees the death of its main process, and starts another
// one, while the successor already serves, or is about to. That other one stands
// in until it can name the successor to the manager as the service's main
// process, and leaves:
//
//	the run directory is free        be the master after all
//	its holder serves                name it, and exit 0
//	its holder ends, being told to   wait for its end, be the master
//	its holder does not answer       name it all the same after upgrade_timeout: it
//	                                 is the manager's watchdog that ends what hangs
//
// Until then it is the main process itself: a stop ends it, and "stoker reap",
// which follows, ends the holder.

// errStoodIn: this process has nothing left to do: the run directory's holder is
// the service's main process now, or the service is to end. It is no failure.
var errStoodIn = errors.New("another process of this service is its master")

const (
	// standInEvery paces the looking.
	standInEvery = 20 * time.Millisecond
	// standInExtension is the patience asked for with each look; many of them fit
	// into it.
	standInExtension = 10 * time.Second
	// standInLooks is how often in a row nobody of this service is found to hold
	// the directory until it is believed: one holder may have just gone.
	standInLooks = 5
)

// standIn is one that stands in.
type standIn struct {
	cfg     *config.Config
	inherit *inheritance
	signals *signals
	manager *systemd.Notifier
	log     hclog.Logger
}

func newStandIn(cfg *config.Config, inherit *inheritance, signals *signals, log hclog.Logger) *standIn {
	return &standIn{cfg: cfg, inherit: inherit, signals: signals, manager: systemd.FromEnv(), log: log}
}

// takeRunDir takes the run directory, which is held, as soon as it is free; it
// returns errStoodIn when there is nothing left to do, and held where the holder
// is no part of this service.
func (s *standIn) takeRunDir(ctx context.Context, held error) (*lock, error) {
	if !s.manager.Enabled() {
		return nil, held
	}
	for looks := 0; looks < standInLooks; looks++ {
		if master := findHolder(s.cfg.LockFile()); master != nil {
			looks = 0
			err := s.await(ctx, master)
			master.close()
			if err != nil {
				return nil, err
			}
		}
		lock, err := s.inherit.takeRunDir(s.cfg)
		if !errors.Is(err, errHeld) {
			return lock, err
		}
		if !s.pause() {
			return nil, errStoodIn
		}
	}
	return nil, held
}

// await returns nil when the master has ended, and errStoodIn when it serves.
func (s *standIn) await(ctx context.Context, master *holder) error {
	s.log.Info("another process of this service is the master, or about to be", "pid", master.pid)
	hangs := time.Now().Add(s.cfg.UpgradeTimeout.Std())
	for !master.ended(standInEvery) {
		_ = s.manager.Send(systemd.ExtendTimeout(standInExtension)) // who is not told gives less time
		switch state := master.state(ctx, s.cfg.AdminSocket()); {
		case state == stateReady, state == stateStarting:
			return s.name(master)
		case state != "": // it ends, within limits of its own
			hangs = time.Now().Add(s.cfg.UpgradeTimeout.Std())
		case time.Now().After(hangs):
			s.log.Error("that process does not answer; it is left to the service manager's watchdog", "pid", master.pid)
			return s.name(master)
		}
		if !s.pause() {
			s.log.Info("told to end; the master is ended by what follows (stoker reap)", "pid", master.pid)
			return errStoodIn
		}
	}
	return nil
}

// pause is false when a signal to end has come.
func (s *standIn) pause() bool {
	select {
	case <-time.After(standInEvery):
		return true
	case <-s.signals.end:
		return false
	}
}

// name tells the manager who the service's main process is, and returns when it
// knows: this process must not end before that.
func (s *standIn) name(master *holder) error {
	err := s.manager.Send(systemd.MainPID(master.pid), systemd.Ready, systemd.Watchdog)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), barrierLimit)
		defer cancel()
		err = s.manager.Barrier(ctx)
	}
	if err != nil {
		return fmt.Errorf("tell the service manager that process %d is the service's main one: %w", master.pid, err)
	}
	s.log.Info("the service manager looks after the master that is there", "pid", master.pid)
	return errStoodIn
}
