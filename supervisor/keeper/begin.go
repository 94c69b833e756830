package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors that a keeper is spawned with.
const (
	stdoutFD = 1
	stderrFD = 2
	lockFD   = 3
	ownerFD  = 4
)

// begin takes the directory and opens the socket. What it returns is the
// connection of the master that spawned us, nil without one, also with an error.
func (k *keeper) begin() (spawner *net.UnixConn, err error) {
	if k.dir, err = filepath.Abs(k.dir); err != nil {
		return nil, err
	}
	var inherited bool
	if k.lock, inherited, err = inheritLock(k.dir); err != nil {
		return nil, err
	}
	dropStrays(inherited)
	if inherited {
		unix.CloseOnExec(ownerFD)
		if spawner, err = inheritOwner(); err != nil {
			return nil, err
		}
	}
	return spawner, k.prepare()
}

// prepare does what can fail before there is an engine.
func (k *keeper) prepare() error {
	if err := readFile(k.dir, intentName, &k.intent); err != nil {
		return err
	}
	if err := leadSession(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	k.keeperStart = self.start
	k.state = State{
		Phase: Starting, Name: k.intent.Name, Nonce: k.intent.Nonce, KeeperPID: os.Getpid(),
		BootID: boot, Epoch: k.intent.Epoch, Label: k.intent.Label,
	}
	if k.srv, err = listen(k.dir); err != nil {
		return err
	}
	return os.Chdir("/") // a keeper keeps nobody from unmounting
}

// leadSession sees to it that the keeper's session is its own. EndOrphan takes
// every member of that session for the engine's, so it must never be a shell's.
func leadSession() error {
	sid, err := unix.Getsid(0)
	if err == nil && sid != os.Getpid() {
		_, err = unix.Setsid()
	}
	if err != nil {
		return fmt.Errorf("lead a session of its own (start it with setsid): %w", err)
	}
	return nil
}

// inheritLock takes over the lock from the master that spawned us, so that it is
// never free in between; a keeper that was started by hand takes its own.
func inheritLock(dir string) (f *os.File, inherited bool, err error) {
	var ours, there unix.Stat_t
	if unix.Fstat(lockFD, &ours) == nil && unix.Stat(filepath.Join(dir, lockName), &there) == nil &&
		ours.Dev == there.Dev && ours.Ino == there.Ino {
		unix.CloseOnExec(lockFD)
		f := os.NewFile(lockFD, lockName)
		return f, true, flock(f)
	}
	f, err = takeLock(dir)
	return f, false, err
}

// inheritOwner takes over our end of the connection to the master that spawned us.
func inheritOwner() (*net.UnixConn, error) {
	f := os.NewFile(ownerFD, "owner")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	owner, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is no unix socket", ownerFD), c.Close())
	}
	return owner, nil
}

// dropStrays closes what was inherited by accident. A listening socket among it
// would stay open for as long as the engine lives, and the door could never be
// closed. Our own descriptors are close-on-exec; strays are not.
func dropStrays(inherited bool) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		if err != nil || fd <= 2 || inherited && fd <= ownerFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd) // nothing was written
		}
	}
}

// apologise tells the master that waits for a hello why there is none.
func apologise(spawner *net.UnixConn, err error) {
	if spawner == nil {
		return
	}
	hello := frame{Op: opHello, Min: minVersion, Max: maxVersion}
	hello.refuse(err)
	if b, err := hello.encode(); err == nil {
		_, _ = spawner.Write(b) // stderr has it too
	}
	_ = spawner.Close() // the process ends
}

// catchSignals catches all that might end the keeper. None is ignored in the
// kernel's sense, which the engine would inherit.
func catchSignals() (signals, children chan os.Signal) {
	signals, children = make(chan os.Signal, 8), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGTSTP)
	return signals, children
}
