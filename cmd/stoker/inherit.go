package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"

	"stoker/config"
	"stoker/internal/failpoint"
)

// inheritance is what passes from one generation of the master to the next:
// the listeners, the run directory's lock and a link. All of it goes as files,
// by name: tableflip unlinks the path of a unix listener that it knows to be
// one as soon as it is told to stop, while clients are still to be served there.
type inheritance struct {
	upgrader upgrader
	// parent is the link to the generation before; nil in the first.
	parent *link
	// hello is what that said; zero in the first.
	hello helloMessage
}

// upgrader is what we need of tableflip, whose type it is.
type upgrader interface {
	// File and AddFile inherit and pass on, by name; nil: no such file came.
	File(name string) (*os.File, error)
	AddFile(name string, file *os.File) error
	// Ready tells the process that started us that it may go.
	Ready() error
	// Upgrade starts a successor and returns when that is ready, or has failed.
	Upgrade() error
	// WaitForParent blocks until the process that started us has ended.
	WaitForParent(ctx context.Context) error
	// Stop ends it all; Exit is closed once that is done.
	Stop()
	Exit() <-chan struct{}
}

// sentinel is how tableflip tells a process that it is a successor.
const sentinel = "TABLEFLIP_HAS_PARENT_7DIU3"

// The names of what is passed on.
const (
	lockFile  = "lock "
	linkFile  = "link"
	adminFile = "admin "
	doorFile  = "listen "
	// of a socket that the service manager goes on listening on
	unitFile = "unit "
)

// helloLimit bounds the wait for the generation before to say who it is; it
// said so before it started us.
const helloLimit = 5 * time.Second

// inherit takes what a generation before has passed on, if there is one.
// timeout bounds later upgrades, from the start of a process to its Ready.
func inherit(timeout time.Duration) (*inheritance, error) {
	if os.Getenv(sentinel) != "" {
		failpoint.Hit("exec")
	}
	flip, err := tableflip.New(tableflip.Options{UpgradeTimeout: timeout})
	if err != nil {
		return nil, fmt.Errorf("take over from the running master: %w", err)
	}
	// Nobody below us is a successor.
	if err := os.Unsetenv(sentinel); err != nil {
		return nil, err
	}
	h := &inheritance{upgrader: flip}
	if !flip.HasParent() {
		return h, nil
	}
	file, err := flip.File(linkFile)
	if err == nil && file == nil {
		err = errors.New("it passed no link on")
	}
	if err == nil {
		h.parent, err = newLink(file)
	}
	if err != nil {
		return nil, fmt.Errorf("take over from the running master: %w", err)
	}
	failpoint.Hit("inherited")
	limit := time.NewTimer(helloLimit)
	defer limit.Stop()
	m, err := h.parent.next(limit.C)
	if err == nil && m.Hello == nil {
		err = errors.New("its first word is no hello")
	}
	if err != nil {
		return nil, fmt.Errorf("take over from the running master: %w", err)
	}
	h.hello = *m.Hello
	return h, nil
}

// successor says whether there is a generation before us that we may replace.
func (h *inheritance) successor() bool { return h.parent != nil }

// giveUp tells the generation before why this process ends, which is of use to
// it only if it still waits for us to be ready.
func (h *inheritance) giveUp(why error) {
	if h.successor() {
		_ = h.parent.send(message{Failed: why.Error()}) // it may have gone, or be told already
	}
}

// generation counts from 1.
func (h *inheritance) generation() int { return h.hello.Generation + 1 }

// takeRunDir is takeRunDir, or the lock that the generation before holds: the
// kernel's lock belongs to the open file, which both have, so that it is never
// free in between.
func (h *inheritance) takeRunDir(cfg *config.Config) (*lock, error) {
	name := lockFile + cfg.LockFile()
	file, err := h.upgrader.File(name)
	if err != nil {
		return nil, fmt.Errorf("inherit the run directory's lock: %w", err)
	}
	if file != nil {
		return &lock{file: file}, nil
	}
	if h.successor() {
		return nil, fmt.Errorf("run directory %s is not that of the running master: an upgrade cannot move it; restart instead", cfg.RunDir)
	}
	held, err := takeRunDir(cfg)
	if err != nil {
		return nil, err
	}
	if err := h.upgrader.AddFile(name, held.file); err != nil {
		held.release()
		return nil, fmt.Errorf("share the run directory's lock: %w", err)
	}
	return held, nil
}

// share returns the listener of that name which was passed on, or the one that
// open opens, and passes it on to the next generation in turn.
func (h *inheritance) share(name string, open func() (net.Listener, error)) (net.Listener, error) {
	listener, err := h.inherited(name)
	if listener != nil || err != nil {
		return listener, err
	}
	if listener, err = open(); err != nil {
		return nil, err
	}
	if err := h.passOn(name, listener); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// inherited returns the listener of that name which was passed on; nil: none was.
func (h *inheritance) inherited(name string) (net.Listener, error) {
	file, err := h.upgrader.File(name)
	if err != nil {
		return nil, fmt.Errorf("inherit %s: %w", name, err)
	}
	if file == nil {
		return nil, nil //nolint:nilnil // as it says
	}
	defer file.Close() //nolint:errcheck // the listener has a duplicate
	// A reload may have closed it for good: what is passed on cannot be taken back.
	if !listening(file) {
		return nil, nil //nolint:nilnil // as it says
	}
	return net.FileListener(file)
}

// listening reports whether anybody can connect to a socket. It does not use
// Fd, which would make the socket a blocking one for every process that has it.
func listening(socket *os.File) bool {
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	on := 0
	err = errors.Join(raw.Control(func(fd uintptr) {
		on, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}), err)
	return err == nil && on == 1
}

// passOn lets the next generation inherit a listener.
func (h *inheritance) passOn(name string, listener net.Listener) error {
	source, ok := listener.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("share %s: a %T cannot be shared", name, listener)
	}
	file, err := source.File()
	if err != nil {
		return fmt.Errorf("share %s: %w", name, err)
	}
	defer file.Close() //nolint:errcheck // tableflip has a duplicate
	if err := h.upgrader.AddFile(name, file); err != nil {
		return fmt.Errorf("share %s: %w", name, err)
	}
	return nil
}

// stop makes tableflip let go of every duplicate that it holds, and ends an
// upgrade that has begun.
func (h *inheritance) stop() error {
	h.upgrader.Stop()
	<-h.upgrader.Exit()
	return nil
}
