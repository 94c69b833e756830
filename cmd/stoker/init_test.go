package main

import (
	"syscall"
	"testing"
)

func TestSignalsThatAreNotForTheMaster(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE} {
		if !notForMaster(sig) {
			t.Errorf("%v would be passed on", sig)
		}
	}
	for _, sig := range []syscall.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH,
	} {
		if notForMaster(sig) {
			t.Errorf("%v would be kept", sig)
		}
	}
}

// TestOrdinaryProcessNeedsNoInit: only the first process of a container does,
// and only an end that ends a container keeps a master from handing over.
func TestOrdinaryProcessNeedsNoInit(t *testing.T) {
	t.Setenv(initVariable, "1") // inherited by a stoker that another one started as an engine
	if isContainerInit() || needsInit([]string{"run"}) {
		t.Error("this test is the first process of a container?")
	}
}
