package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// In a container the first process has duties that no other has: whatever loses
// its parent becomes its child and stays a zombie until it is reaped, and its end
// ends everything. A master cannot do the first by itself, since waiting for any
// child would steal the exit statuses that os/exec waits for. So a master that
// finds itself to be the first process starts a second one, which is the master,
// and becomes the smallest of inits: it passes signals on, reaps, and exits as
// the master did.

// initVariable marks the master below our own init.
const initVariable = "STOKER_INIT"

// needsInit says whether this command would be a long-lived first process.
func needsInit(args []string) bool {
	return os.Getpid() == 1 && len(args) > 0 && (args[0] == "run" || args[0] == "demo")
}

// isContainerInit says that the end of this process ends its container, so that
// it cannot hand over to a successor: it is the first process, or the one child
// for which an init waits, ours or one of those that container runtimes add.
func isContainerInit() bool {
	if os.Getpid() == 1 {
		return true
	}
	if os.Getppid() != 1 {
		return false
	}
	if os.Getenv(initVariable) != "" {
		return true
	}
	name, err := os.ReadFile("/proc/1/comm")
	known := []string{"tini", "docker-init", "podman-init", "catatonit", "dumb-init"}
	return err == nil && slices.Contains(known, strings.TrimSpace(string(name)))
}

// runInit starts this program again as the master, and returns what to exit with.
func runInit() int {
	cmd := exec.Command(selfPath(), os.Args[1:]...) //nolint:noctx,gosec // it ends when it wants to; and it is this very command
	cmd.Env = append(os.Environ(), initVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Ctrl-C goes to the terminal's foreground group: to the master alone, which
	// would count it twice if it came from us as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP); err == nil && group == syscall.Getpgrp() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: int(os.Stdin.Fd())}
	}
	// Before the start: a signal that comes in between waits for its receiver.
	incoming := make(chan os.Signal, 64)
	signal.Notify(incoming)
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "stoker: start the master below this init: %v\n", err)
		return exitFailed
	}
	// From here on only wait4 below knows children: cmd.Wait is never called.
	return serveInit(cmd.Process.Pid, incoming)
}

// serveInit passes signals to the master and reaps until the master has ended.
func serveInit(master int, incoming <-chan os.Signal) int {
	for {
		if status, ended := reapAll(master); ended {
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
		sig, ok := (<-incoming).(syscall.Signal)
		if !ok || notForMaster(sig) {
			continue
		}
		// It may have just ended: then the next round sees that.
		_ = syscall.Kill(master, sig)
	}
}

// notForMaster are the signals that tell this process something about itself: a
// child has ended, the Go runtime's own, and a write of ours to a closed pipe.
func notForMaster(sig syscall.Signal) bool {
	return sig == syscall.SIGCHLD || sig == syscall.SIGURG || sig == syscall.SIGPIPE
}

// reapAll waits for every child that has ended, and says how the master did if
// it is among them.
func reapAll(master int) (how syscall.WaitStatus, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || pid <= 0:
			return how, ended
		case pid == master:
			how, ended = status, true
		}
	}
}
