package main

import (
	"os"
	"syscall"
	"testing"
)

func TestEachSignalMakesTheEndMoreUrgent(t *testing.T) {
	term, hup, quit, pipe := syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE
	tests := []struct {
		name             string
		hupEnds          bool
		send             []os.Signal
		end, hurry, kill bool
	}{
		{"none", true, nil, false, false, false},
		{"one", true, []os.Signal{term}, true, false, false},
		{"two", true, []os.Signal{term, syscall.SIGINT}, true, true, false},
		{"three", true, []os.Signal{term, term, term}, true, true, true},
		{"four", true, []os.Signal{term, term, term, quit, quit}, true, true, true},
		{"quit", true, []os.Signal{quit}, true, true, true},
		{"quit after term", true, []os.Signal{term, quit}, true, true, true},
		{"terminal closed, command line", true, []os.Signal{hup}, true, false, false},
		{"terminal closed, file", false, []os.Signal{hup}, false, false, false},
		{"log reader gone", true, []os.Signal{pipe, syscall.SIGWINCH}, false, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := watchSignals(tt.hupEnds)
			for _, sig := range tt.send {
				s.incoming <- sig
			}
			s.stop()
			closed := func(c chan struct{}) bool {
				select {
				case <-c:
					return true
				default:
					return false
				}
			}
			if got := len(s.end) == 1; got != tt.end {
				t.Errorf("end = %v", got)
			}
			if got := closed(s.hurry); got != tt.hurry {
				t.Errorf("hurry = %v", got)
			}
			if got := closed(s.kill); got != tt.kill {
				t.Errorf("kill = %v", got)
			}
		})
	}
}
