package keeper

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SpawnOptions say what to spawn and where.
type SpawnOptions struct {
	// Argv is the keeper's command, such as ["/usr/bin/stoker", "keeper"];
	// "--dir", Dir is appended.
	Argv []string
	// Dir is the keeper's own directory, one per worker; it is made (0700) if
	// absent. With "/keeper.sock" it must fit into 107 bytes.
	Dir    string
	Intent Intent
	// Stderr takes the engine's output lines; the keeper inherits it.
	Stderr *os.File
}

// settleWithin is how long a keeper may be neither there nor gone.
const settleWithin = time.Second

// abandonWithin bounds the clearing up after a spawn that failed.
const abandonWithin = 5 * time.Second

// Spawn starts a keeper and returns its owner's client, claimed with
// Intent.Epoch. The engine is being executed by then; that it cannot be is no
// error of Spawn's but an Exit with Error. It is ErrKeeperDead when the
// directory still holds what an earlier keeper left: never two engines on one slot.
// After an error nothing runs and nothing is left but the directory and its lock.
func Spawn(ctx context.Context, o SpawnOptions) (*Client, error) {
	c, err := spawn(ctx, &o)
	if err != nil {
		return nil, fmt.Errorf("spawn keeper for %s: %w", o.Intent.Name, err)
	}
	return c, nil
}

func spawn(ctx context.Context, o *SpawnOptions) (*Client, error) {
	path, err := o.complete()
	if err != nil {
		return nil, err
	}
	lock, err := o.claimDir()
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // the keeper has its own copy
	if err := writeFile(o.Dir, intentName, &o.Intent); err != nil {
		return nil, errors.Join(err, clearFiles(o.Dir))
	}
	proc, conn, err := o.start(path, lock)
	if err != nil {
		return nil, errors.Join(err, clearFiles(o.Dir))
	}
	ended := make(chan struct{})
	go func() { // lives as long as the keeper does, or we: somebody must reap it
		defer close(ended)
		_, _ = proc.Wait() // how a keeper ends is told by its files
	}()
	c, err := dial(ctx, conn)
	if err == nil {
		if err = o.verify(c, proc.Pid); err == nil {
			err = c.greet(ctx)
		}
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, abandon(ctx, o.Dir, proc, lock, ended))
	}
	return c, nil
}

// complete fills in what may be left out and finds the keeper's executable.
func (o *SpawnOptions) complete() (path string, err error) {
	if len(o.Argv) == 0 || o.Intent.Name == "" || o.Dir == "" {
		return "", errors.New("the keeper's command, its directory and the worker's name are needed")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return "", err
	}
	if s := filepath.Join(o.Dir, socketName); len(s) > 107 {
		return "", fmt.Errorf("the path of its socket has %d bytes, the kernel takes 107: %s", len(s), s)
	}
	if o.Intent.Dir == "" {
		if o.Intent.Dir, err = os.Getwd(); err != nil {
			return "", err
		}
	}
	if o.Intent.Nonce == "" {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", err
		}
		o.Intent.Nonce = hex.EncodeToString(b[:])
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if path, err = exec.LookPath(o.Argv[0]); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// claimDir makes the directory ours, by its lock, and finds it free.
func (o *SpawnOptions) claimDir() (*os.File, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkDir(o.Dir); err != nil {
		return nil, err
	}
	lock, err := takeLock(o.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(o.Dir, intentName)); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%w: %s holds what it left", ErrKeeperDead, o.Dir), err, lock.Close())
	}
	return lock, nil
}

// start executes the keeper with its lock and one end of a connection.
func (o *SpawnOptions) start(path string, lock *os.File) (*os.Process, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	mine, its := os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "master")
	defer its.Close() //nolint:errcheck // the keeper has its own copy
	conn, err := net.FileConn(mine)
	if err = errors.Join(err, mine.Close()); err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	defer null.Close() //nolint:errcheck // only read
	argv := append(append([]string(nil), o.Argv...), "--dir", o.Dir)
	proc, err := os.StartProcess(path, argv, &os.ProcAttr{
		Env:   keeperEnv(),
		Files: []*os.File{null, o.Stderr, o.Stderr, lockFD: lock, ownerFD: its},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return proc, conn, nil
}

// keeperEnv is next to nothing: the master's environment may hold secrets, and
// a notify socket or an upgrade's sentinel that mean the master alone.
func keeperEnv() []string {
	env := []string{"GOMAXPROCS=2"}
	for _, key := range []string{"PATH", "GORACE", "GOCOVERDIR", "GOTRACEBACK"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// verify holds the hello against the process that was started.
func (o *SpawnOptions) verify(c *Client, pid int) error {
	if s := c.State(); s.Nonce != o.Intent.Nonce || s.KeeperPID != pid {
		return fmt.Errorf("%w: the keeper that was started (pid %d) says it is another (pid %d)", ErrForeign, pid, s.KeeperPID)
	}
	return nil
}

// abandon undoes a spawn: the keeper first, then whatever it had begun. The
// lock was never let go of, so nobody else has come in between.
func abandon(ctx context.Context, dir string, proc *os.Process, lock *os.File, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonWithin)
	defer cancel()
	if err := proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("keeper (pid %d) does not die: %w", proc.Pid, ctx.Err())
	}
	_, err := endOrphan(ctx, dir, 0)
	if lerr := lock.Close(); err == nil {
		err = lerr
	}
	return err
}

// Attach observes a keeper that another master spawned in dir, once it is
// proven to be the one that the files speak of. ErrNoKeeper: there is none.
// ErrKeeperDead: its files are there and it is not. ErrForeign: something is
// not as the files say; nothing was sent.
func Attach(ctx context.Context, dir string) (*Client, error) {
	c, err := attach(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("attach to keeper in %s: %w", dir, err)
	}
	return c, nil
}

func attach(ctx context.Context, dir string) (*Client, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	var intent Intent
	if err := readFile(dir, intentName, &intent); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKeeper, err)
	} else if err != nil {
		return nil, err
	}
	for try := time.Now(); ; {
		c, err := attachOnce(ctx, dir, &intent)
		// A keeper that is being killed, or lets go after an ack, may take a
		// connection that it will not serve; then its lock tells what became of it.
		if !errors.Is(err, ErrLost) || time.Since(try) > settleWithin {
			return c, err
		}
	}
}

func attachOnce(ctx context.Context, dir string, intent *Intent) (*Client, error) {
	conn, err := connect(ctx, dir)
	if err != nil {
		return nil, err
	}
	cred, err := peer(conn)
	if err == nil && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("%w: the socket is uid %d's", ErrForeign, cred.Uid)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, err := dial(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err = c.prove(intent, int(cred.Pid)); err == nil {
		err = c.greet(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// connect reaches the keeper's socket, or says why nobody is there. A keeper
// that has just begun, or is about to end, holds the lock without a socket for a moment.
func connect(ctx context.Context, dir string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		lock, lerr := takeLock(dir)
		if lerr == nil {
			return nil, errors.Join(ErrKeeperDead, lock.Close())
		}
		if !errors.Is(lerr, ErrBusy) {
			return nil, lerr
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, which does not answer: %w", ErrBusy, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// prove holds the hello against the files and the kernel.
func (c *Client) prove(i *Intent, pid int) error {
	s := c.State()
	boot, err := bootID()
	if err != nil {
		return err
	}
	p, err := readProcess(pid)
	if err != nil {
		return fmt.Errorf("%w: pid %d: %w", ErrForeign, pid, err)
	}
	var wrong []string
	if i.Nonce == "" || s.Nonce != i.Nonce {
		wrong = append(wrong, "nonce")
	}
	if s.KeeperPID != pid {
		wrong = append(wrong, "pid")
	}
	if c.hello.KeeperStart != p.start {
		wrong = append(wrong, "start time")
	}
	if s.BootID != boot {
		wrong = append(wrong, "boot id")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: who listens there (pid %d) differs in %s", ErrForeign, pid, strings.Join(wrong, ", "))
	}
	return nil
}
