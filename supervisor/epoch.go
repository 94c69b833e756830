package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NextEpoch returns a number higher than any that a master of runDir has had,
// and writes it down (runDir/epoch) before it returns. The caller holds the run
// directory's lock. A keeper obeys the highest epoch that it has heard of.
//
// On a full disk it is written over the last one, which needs no room: engines that
// run shall have a master there, too.
func NextEpoch(runDir string) (uint64, error) {
	c, err := ClaimEpoch(runDir)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return overwriteEpoch(filepath.Join(runDir, epochFile))
	}
	if err != nil {
		return 0, err
	}
	return c.Take()
}

const epochFile = "epoch"

// EpochClaim is the next epoch, written down beside the last one. To take it needs
// no more room: a master that has let its elder go cannot turn back for want of it.
type EpochClaim struct {
	path string
	next uint64
}

// ClaimEpoch prepares what NextEpoch does. Take or Drop has to follow.
func ClaimEpoch(runDir string) (*EpochClaim, error) {
	c := &EpochClaim{path: filepath.Join(runDir, epochFile)}
	last, err := readEpoch(c.path)
	if err != nil {
		return nil, err
	}
	c.next = last + 1
	if err := os.WriteFile(c.temp(), epochText(c.next), 0o600); err != nil {
		c.Drop()
		return nil, fmt.Errorf("write epoch: %w", err)
	}
	return c, nil
}

// Take makes it the last epoch.
func (c *EpochClaim) Take() (uint64, error) {
	if err := os.Rename(c.temp(), c.path); err != nil {
		return 0, fmt.Errorf("write epoch: %w", err)
	}
	return c.next, nil
}

// Drop leaves the last epoch as it is.
func (c *EpochClaim) Drop() { _ = os.Remove(c.temp()) } // the next claim writes over it all the same

func (c *EpochClaim) temp() string { return c.path + ".tmp" }

func epochText(epoch uint64) []byte { return []byte(strconv.FormatUint(epoch, 10) + "\n") }

// overwriteEpoch is NextEpoch within the room that the last one has: its block.
func overwriteEpoch(path string) (uint64, error) {
	last, err := readEpoch(path)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // the path is the run directory's
	if err != nil {
		return 0, fmt.Errorf("write epoch: %w", err)
	}
	_, err = f.WriteAt(epochText(last+1), 0) // never shorter
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("write epoch: %w", err)
	}
	return last + 1, nil
}

// readEpoch reads the last epoch, 0 when there was none.
func readEpoch(path string) (uint64, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the path is the run directory's
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	epoch, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read epoch: %s holds no number: %w", path, err)
	}
	return epoch, nil
}
