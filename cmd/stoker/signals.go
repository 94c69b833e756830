package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals turns what the operating system sends into what the master waits
// for. It only passes on; decisions are the master's.
type signals struct {
	// end delivers the first signal that ends the master.
	end chan os.Signal
	// work delivers those that ask a serving master for something.
	work chan os.Signal
	// hurry is closed at the second of them: no more waiting for requests.
	hurry chan struct{}
	// kill is closed at the third, and at QUIT: no more waiting for engines.
	kill chan struct{}

	hupEnds  bool
	incoming chan os.Signal
	done     sync.WaitGroup
}

// watchSignals begins; stop ends it. HUP means that the terminal has closed: it
// ends a master that was started by a command line alone, hupEnds, and has one
// that a file configures read it anew.
//
// What is dropped is caught, not ignored: an ignored signal would stay ignored
// in every engine. PIPE is one of them, since the log's reader may go away.
func watchSignals(hupEnds bool) *signals {
	s := &signals{
		hupEnds:  hupEnds,
		end:      make(chan os.Signal, 1),
		work:     make(chan os.Signal, 8),
		hurry:    make(chan struct{}),
		kill:     make(chan struct{}),
		incoming: make(chan os.Signal, 8),
	}
	signal.Notify(s.incoming, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGWINCH,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU)
	s.done.Go(s.pass)
	return s
}

// pass counts: each signal makes the end more urgent by one step, QUIT by all.
func (s *signals) pass() {
	urgency := 0
	for sig := range s.incoming {
		if !s.ends(sig) {
			s.ask(sig)
			continue
		}
		before := urgency
		urgency++
		if sig == syscall.SIGQUIT {
			urgency = max(urgency, 3)
		}
		if before < 1 {
			s.end <- sig
		}
		if before < 2 && urgency >= 2 {
			close(s.hurry)
		}
		if before < 3 && urgency >= 3 {
			close(s.kill)
		}
	}
}

// ends says whether sig asks the master to end.
func (s *signals) ends(sig os.Signal) bool {
	switch sig {
	case syscall.SIGPIPE, syscall.SIGWINCH, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGUSR1, syscall.SIGUSR2:
		return false
	case syscall.SIGHUP:
		return s.hupEnds
	default:
		return true
	}
}

// ask passes a signal on to whoever takes work. While nobody does, a few wait;
// of more the master could not tell how often they were meant.
func (s *signals) ask(sig os.Signal) {
	switch sig {
	case syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU:
		select {
		case s.work <- sig:
		default:
		}
	}
}

func (s *signals) stop() {
	// One that comes too late shall not change how this process ends.
	signal.Ignore(syscall.SIGUSR2)
	signal.Stop(s.incoming)
	close(s.incoming)
	s.done.Wait()
}
