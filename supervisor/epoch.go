package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// NextEpoch returns a number higher than any that a master of runDir has had,
// and writes it down (runDir/epoch) before it returns. The caller holds the run
// directory's lock. A keeper obeys the highest epoch that it has heard of.
func NextEpoch(runDir string) (uint64, error) {
	path := filepath.Join(runDir, "epoch")
	last, err := readEpoch(path)
	if err != nil {
		return 0, err
	}
	next := last + 1
	temp := path + ".tmp"
	if err := os.WriteFile(temp, []byte(strconv.FormatUint(next, 10)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("write epoch: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return 0, fmt.Errorf("write epoch: %w", err)
	}
	return next, nil
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
