package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names in a keeper's directory.
const (
	lockName   = "keeper.lock"
	socketName = "keeper.sock"
	intentName = "intent.json"
	stateName  = "state.json"
	exitName   = "exit.json"
	treeName   = "tree.json"
)

// maxFile bounds what is read of any file; an environment is the largest part of one.
const maxFile = 8 << 20

// stateRecord is state.json: the state, and what only EndOrphan needs.
type stateRecord struct {
	State
	KeeperStart uint64 `json:"keeper_start"`
	// Pipes are the inodes of the engine's stdout and stderr.
	Pipes []uint64 `json:"pipes,omitempty"`
}

// treeRecord is tree.json: who was below the keeper when it last looked. Names,
// environments, parents and output can all be shed by a process; pid and start
// time cannot.
type treeRecord struct {
	Nonce     string     `json:"nonce"`
	Processes []recorded `json:"processes"`
}

type recorded struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// ReadExit reads what a keeper has left in dir. The error is fs.ErrNotExist
// when no engine has ended there. State.Phase is Ending when the keeper was
// killed before the whole tree was gone: EndOrphan does the rest.
func ReadExit(dir string) (ExitRecord, error) {
	var r ExitRecord
	err := readFile(dir, exitName, &r)
	return r, err
}

// writeFile replaces dir/name by v at once or not at all. The directory has
// one writer, who holds its lock, so one temporary name is enough.
func writeFile(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600) //nolint:gosec // the path is the caller's own directory
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, removeFile(temp)))
	}
	return nil
}

// readFile decodes dir/name into v. A file that is not ours, not a plain file
// or no JSON is ErrForeign: nobody is signalled on what it says.
func readFile(dir, name string, v any) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // the path is the caller's own directory
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if !info.Mode().IsRegular() || !ours(info) {
		return fmt.Errorf("%w: %s is not a file of ours", ErrForeign, f.Name())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrForeign, f.Name(), err)
	}
	return nil
}

// clearFiles removes all but the lock, whose holder the caller is. It goes on
// past errors; intent.json goes last, because it alone says that the others
// mean something.
func clearFiles(dir string) error {
	var errs []error
	for _, name := range []string{socketName, treeName, stateName, exitName, intentName} {
		path := filepath.Join(dir, name)
		errs = append(errs, removeFile(path+".tmp"), removeFile(path))
	}
	return errors.Join(errs...)
}

// Tidy removes dir where no keeper lives and nothing is left of any but the
// lock; else it removes nothing, which is no error. The caller sees to it that
// nobody spawns a keeper there meanwhile: whoever had just opened the lock
// would hold one that nobody else finds.
func Tidy(dir string) error {
	if err := checkDir(dir); errors.Is(err, ErrNoKeeper) {
		return nil
	} else if err != nil {
		return err
	}
	lock, err := takeLock(dir)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 1 {
		return err
	}
	return errors.Join(removeFile(lock.Name()), os.Remove(dir))
}

// removeFile removes path, if it is there.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkDir says whether dir is a directory that only we can write to.
func checkDir(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNoKeeper, err)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() || !ours(info) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: %s is not a directory that only uid %d can write to", ErrForeign, dir, os.Geteuid())
	}
	return nil
}

func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// takeLock holds dir for whoever gets the file, until every copy of it is
// closed. It is ErrBusy while another holds it.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) //nolint:gosec // the path is the caller's own directory
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%w: %s", ErrBusy, f.Name())
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
