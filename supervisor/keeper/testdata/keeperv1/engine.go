//go:build keeperv1

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// launched is what came of executing an engine.
type launched struct {
	pid   int
	pidfd int // -1 when the kernel gives none
	pipes []uint64
	at    time.Time
	err   error
}

// launch executes the engine that i describes, with its output going to out.
// It blocks as long as the exec does, which may be long on a slow file system.
func launch(i *Intent, out *output) launched {
	l := launched{pidfd: -1, at: time.Now()}
	path, err := lookUp(i)
	if err != nil {
		l.err = err
		return l
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		l.err = err
		return l
	}
	defer null.Close() //nolint:errcheck // only read
	files := []uintptr{null.Fd()}
	for _, stream := range []string{"stdout", "stderr"} {
		r, w, inode, err := pipe(stream, i.Credential)
		if err != nil {
			l.err = err
			return l
		}
		defer w.Close() //nolint:errcheck // the engine has its own copy
		out.read(r)
		files = append(files, w.Fd())
		l.pipes = append(l.pipes, inode)
	}
	attr := &syscall.ProcAttr{
		Dir:   i.Dir,
		Env:   i.environment(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &l.pidfd, Credential: i.Credential.system()},
	}
	l.pid, err = syscall.ForkExec(path, i.Argv, attr)
	if err != nil {
		l.err = i.explain(path, err)
	}
	return l
}

// pipe makes one for a stream of the engine's. Our end is non-blocking, so that
// reading costs no thread; the engine's is not, because programs do not expect it.
// It belongs to the engine's user: opening /dev/stderr opens the pipe anew.
func pipe(name string, c *Credential) (r, w *os.File, inode uint64, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, 0, fmt.Errorf("pipe for %s: %w", name, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fds[1], &st)
	if err == nil && c != nil {
		err = unix.Fchown(fds[1], int(c.UID), int(c.GID))
	}
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		err = fmt.Errorf("pipe for %s: %w", name, err)
		return nil, nil, 0, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), st.Ino, nil
}

// nonceEntry marks all processes of an engine's tree.
func nonceEntry(nonce string) string { return "STOKER_NONCE=" + nonce }

// environment is the engine's: what was intended, and the mark.
func (i *Intent) environment() []string {
	env := make([]string, 0, len(i.Env)+1)
	for _, e := range i.Env {
		if !strings.HasPrefix(e, nonceEntry("")) {
			env = append(env, e)
		}
	}
	return append(env, nonceEntry(i.Nonce))
}

// system is c as the system call wants it. Only root may set groups, and
// anybody may run as himself.
func (c *Credential) system() *syscall.Credential {
	if c == nil {
		return nil
	}
	return &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups, NoSetGroups: os.Geteuid() != 0}
}

// lookUp finds the file to execute, as a shell with the engine's PATH would. It also
// looks at the directory: the kernel's "no such file" does not say which.
func lookUp(i *Intent) (string, error) {
	if len(i.Argv) == 0 || i.Argv[0] == "" {
		return "", errors.New("exec: the command is empty")
	}
	if i.Dir != "" {
		info, err := os.Stat(i.Dir)
		if err != nil {
			return "", fmt.Errorf("exec: working directory: %w", err)
		}
		if !info.IsDir() {
			return "", fmt.Errorf("exec: working directory: %s is not a directory", i.Dir)
		}
	}
	name := i.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, e := range i.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			continue // the current directory is nobody's intention
		}
		file := filepath.Join(dir, name)
		if !filepath.IsAbs(file) {
			file = filepath.Join(i.Dir, file)
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("exec: %q: not found in the PATH %q", name, path)
}

// explain says what the kernel's one number can have meant.
func (i *Intent) explain(path string, err error) error {
	as := ""
	if i.Credential != nil {
		as = fmt.Sprintf(" as uid %d gid %d", i.Credential.UID, i.Credential.GID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(i.Dir, path)
		}
		if _, serr := os.Stat(path); serr == nil {
			return fmt.Errorf("exec %s%s: its interpreter or loader is missing: %w", path, as, err)
		}
	}
	return fmt.Errorf("exec %s%s in %s: %w", path, as, i.Dir, err)
}
