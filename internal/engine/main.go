package engine

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"stoker/internal/door"
)

// Exit codes of Main.
const (
	exitOK    = 0
	exitError = 1 // could not start, or requests were cut
	exitUsage = 2
)

// Main runs an engine as a process until SIGTERM or SIGINT, and returns its exit
// code: 0 when all requests could finish, 1 when it could not listen or had to cut
// requests, 2 for a command line that makes no sense. After the signal it takes no
// more connections and lets requests finish for --grace; a second signal ends it
// at once.
func Main(args []string) int {
	p, err := parse(args, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "engine " + p.Name, Output: os.Stderr, Level: hclog.Info})
	if p.exitAtStart >= 0 {
		log.Error("exiting at once, as told", "code", p.exitAtStart)
		return p.exitAtStart
	}
	// Before anybody can find the socket and send a signal.
	signals := p.catch()
	defer signal.Stop(signals)

	ln, err := door.Listen(context.Background(), p.listen, door.Options{})
	if err != nil {
		log.Error("could not start", "error", err)
		return exitError
	}
	e := New(p.Options)
	defer e.Close()
	if p.spawnDaemon {
		if e.daemon, err = spawnDaemon(); err != nil {
			log.Error("could not leave a daemon", "error", err)
			return exitError
		}
	}
	log.Info("loading model", "model", e.Model, "listen", ln.Addr(), "load_time", p.LoadTime, "daemon_pid", e.daemon)
	return p.serve(log, e, ln, signals)
}

func (p process) catch() chan os.Signal {
	signals := make(chan os.Signal, 2)
	if p.ignoreTerm {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	} else {
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	}
	return signals
}

// serve answers requests until a signal, or until --exit-after is over.
func (p process) serve(log hclog.Logger, e *Engine, ln net.Listener, signals <-chan os.Signal) int {
	server := &http.Server{Handler: e, ReadHeaderTimeout: time.Minute, IdleTimeout: p.idleTimeout}
	failed := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { failed <- server.Serve(ln) })

	var over <-chan time.Time
	if p.exitAfter > 0 {
		over = time.After(p.exitAfter)
	}
	for asked := false; !asked; {
		select {
		case err := <-failed:
			log.Error("stopped serving", "error", err)
			return exitError
		case <-over:
			log.Warn("exiting, as told", "after", p.exitAfter)
			return exitOK
		case sig := <-signals:
			if asked = !e.isBlocked(); asked {
				log.Info("stopping", "signal", sig, "in_progress", e.Stats().InProgress)
			}
		}
	}
	err := p.shutdown(server, signals)
	serving.Wait()
	if err != nil {
		log.Warn("stopped, requests were cut", "in_progress", e.Stats().InProgress, "error", err)
		return exitError
	}
	log.Info("stopped")
	return exitOK
}

// shutdown lets requests finish until the grace is over or another signal comes.
func (p process) shutdown(server *http.Server, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.grace)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	})
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close()
	}
	cancel()
	watching.Wait()
	return err
}

// die ends this process.
func (d death) die() {
	if d.signal == 0 {
		os.Exit(d.code)
	}
	// Tests abort many engines: no core files.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	defaultAction(d.signal)
	_ = unix.Kill(os.Getpid(), d.signal)
	select {} // until it arrives
}

// defaultAction takes a signal away from Go's run-time, which would turn SIGABRT
// into a dump of all goroutines and exit code 2.
func defaultAction(signal syscall.Signal) {
	var action [4]uint64 // the kernel's struct sigaction: SIG_DFL, no flags, an empty mask
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal),
		uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0) //nolint:gosec // the way to pass a struct to the kernel
}

// daemonLife bounds what is left behind when nobody ends the daemon, in seconds.
const daemonLife = "600"

// spawnDaemon leaves a grandchild in a session of its own that ignores the
// signals that ask, as engines' helpers do that hold a GPU after the engine is
// gone. It returns the grandchild's pid.
func spawnDaemon() (int, error) {
	sh := exec.CommandContext(context.Background(), "/bin/sh", "-c", `trap "" TERM INT HUP; sleep `+daemonLife+` >/dev/null 2>&1 & echo $!`)
	sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := sh.Output()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}
