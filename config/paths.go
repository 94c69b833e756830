package config

import (
	"path/filepath"
	"strconv"
	"strings"
)

// MaxSocketPath is the longest path of a unix socket, in bytes: the kernel's
// sun_path holds 108 with its closing NUL.
const MaxSocketPath = 107

// AdminSocket is the admin listener's unix socket.
func (c *Config) AdminSocket() string { return filepath.Join(c.RunDir, "admin.sock") }

// LockFile is what a master holds for as long as the run directory is its own.
func (c *Config) LockFile() string { return filepath.Join(c.RunDir, "lock") }

// StopMark is a file that is there once a master has been asked to stop, and
// until the next one starts.
func (c *Config) StopMark() string { return filepath.Join(c.RunDir, "stopping") }

// CrashDir holds the reports of engines' deaths.
func (c *Config) CrashDir() string { return CrashDirIn(c.StateDir) }

// CrashDirIn is CrashDir of a state directory.
func CrashDirIn(stateDir string) string { return filepath.Join(stateDir, "crashes") }

// StateLink is a symbolic link to StateDir, where that is not RunDir: whoever
// finds the run directory, which may be all he knows, finds what is kept too.
func (c *Config) StateLink() string { return filepath.Join(c.RunDir, "state") }

// MoveRunDir takes another run directory, and the state directory with it
// where nobody has said that one.
func (c *Config) MoveRunDir(dir string) {
	if c.StateDir == stateDirOf(c.RunDir) {
		c.StateDir = stateDirOf(dir)
	}
	c.RunDir = dir
}

// QuarantineFile holds what is suspected and refused.
func (c *Config) QuarantineFile() string { return filepath.Join(c.StateDir, "quarantine.json") }

// EngineDir is the directory of a worker's engine, which may belong to
// another user than the master's.
func (c *Config) EngineDir(worker string) string {
	return filepath.Join(c.RunDir, "engines", worker)
}

// EngineSocket is where the engine of a worker listens, when its pool has
// UsesSocket.
func (c *Config) EngineSocket(worker string) string {
	return filepath.Join(c.EngineDir(worker), "http.sock")
}

// KeeperDir is the directory of a worker's keeper: its files and its socket.
func (c *Config) KeeperDir(worker string) string {
	return filepath.Join(c.RunDir, "keepers", worker)
}

// KeeperSocket is where the keeper of a worker listens.
func (c *Config) KeeperSocket(worker string) string {
	return filepath.Join(c.KeeperDir(worker), "keeper.sock")
}

// WorkerName is the name of the pool's worker of that index, from 0. No two
// pools of a valid configuration share one.
func (p *Pool) WorkerName(index int) string {
	return p.Name + "-" + strconv.Itoa(index)
}

// Remote reports whether others run the pool's upstreams.
func (p *Pool) Remote() bool { return len(p.Servers) > 0 }

// UsesSocket reports whether the pool's engines are reached by unix socket:
// {socket} occurs in their command or environment, or a shell in the command
// reads STOKER_SOCKET. Else they are reached at a TCP port.
func (p *Pool) UsesSocket() bool { return p.Mentions("{socket}") || p.Mentions("STOKER_SOCKET") }

// Mentions reports whether the pool's command or environment holds a word.
func (p *Pool) Mentions(word string) bool {
	for _, arg := range p.Command {
		if strings.Contains(arg, word) {
			return true
		}
	}
	for _, value := range p.Env {
		if strings.Contains(value, word) {
			return true
		}
	}
	return false
}
