package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"stoker/config"
	"stoker/supervisor/keeper"
)

// slot is the place of one worker: its directories, its address, its devices,
// and the command that runs there. It belongs to the worker's goroutine.
type slot struct {
	name       string
	index      int
	pool       *config.Pool
	runDir     string
	engineDir  string
	socket     string // of the engine
	keeperDir  string
	orphanTime time.Duration
	stopSignal syscall.Signal
	account    *account // nil: the master's own
	gpus       []string
	ports      *ports
	environ    func() []string // the master's environment

	wantsSocket, wantsPort bool
	port                   int // reserved, 0: none
}

// mentions reports whether the pool's command or environment holds one of the words.
func mentions(p *config.Pool, words ...string) bool {
	for _, word := range words {
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
	}
	return false
}

// newSlot describes the place of a pool's worker of that index.
func newSlot(c *config.Config, p *config.Pool, index int) *slot {
	name := p.WorkerName(index)
	socket := mentions(p, "{socket}", "STOKER_SOCKET")
	return &slot{
		name: name, index: index, pool: p,
		runDir: c.RunDir, engineDir: c.EngineDir(name), socket: c.EngineSocket(name), keeperDir: c.KeeperDir(name),
		orphanTime:  c.OrphanTimeout.Std(),
		environ:     os.Environ,
		wantsSocket: socket,
		wantsPort:   !socket || mentions(p, "{port}", "STOKER_PORT"),
	}
}

// KeeperDir is the directory of the worker's keeper.
func (s *slot) KeeperDir() string { return s.keeperDir }

// Configure goes by new settings from the next start or stop on.
func (s *slot) Configure(p *config.Pool) { s.pool, s.stopSignal = p, stopSignal(p.Stop.Signal) }

// Prepare makes room for one start: directories, an address, the words of the command.
func (s *slot) Prepare(epoch uint64) (launch, error) {
	if err := s.makeDirs(); err != nil {
		return launch{}, err
	}
	if s.wantsSocket {
		// A socket that the last engine left would let probes find nobody, and
		// most engines refuse to bind over it.
		if err := s.removeSocket(); err != nil {
			return launch{}, fmt.Errorf("remove the last engine's socket: %w", err)
		}
	}
	s.Vacate()
	if s.wantsPort {
		port, err := s.ports.take()
		if err != nil {
			return launch{}, err
		}
		s.port = port
	}
	address := "unix:" + s.socket
	if !s.wantsSocket {
		address = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
	}
	return launch{dir: s.keeperDir, address: address, intent: s.intent(epoch, address)}, nil
}

// intent is what the keeper is told.
func (s *slot) intent(epoch uint64, address string) keeper.Intent {
	i := keeper.Intent{
		Name:          s.name,
		Argv:          s.expandAll(s.pool.Command),
		Env:           s.environment(),
		Dir:           s.pool.Dir,
		StopSignal:    int(s.stopSignal),
		StopGrace:     s.pool.Stop.Grace.Std(),
		OrphanTimeout: s.orphanTime,
		Epoch:         epoch,
		Label:         map[string]string{labelAddress: address, labelFingerprint: s.Fingerprint()},
	}
	if s.account != nil {
		i.Credential = &s.account.credential
	}
	return i
}

// Occupy reserves the address of an adopted engine.
func (s *slot) Occupy(address string) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return // a unix socket needs no reservation: it is this slot's alone
	}
	if port, err := strconv.Atoi(text); err == nil {
		s.ports.hold(port)
		s.port = port
	}
}

// Vacate gives the port back, and removes the socket of an engine that did not.
func (s *slot) Vacate() {
	if s.wantsSocket {
		_ = s.removeSocket() // nobody listens there; the next start insists
	}
	if s.port != 0 {
		s.ports.give(s.port)
		s.port = 0
	}
}

func (s *slot) removeSocket() error {
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Fingerprint changes with everything that an engine is started with, except
// its address, which is new at each start, and the master's own environment,
// which differs between a shell and a service without meaning anything.
func (s *slot) Fingerprint() string {
	text, _ := json.Marshal(struct { // strings and numbers always encode
		Name, User, Dir string
		Command         []string
		Env             map[string]string
		GPUs            []string
		Index           int
		Protocol        string `json:",omitempty"` // engines that are adopted are older than it
	}{s.name, s.pool.User, s.pool.Dir, s.pool.Command, s.pool.Env, s.gpus, s.index, strings.TrimPrefix(s.pool.Protocol, config.HTTP1)})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// expand replaces the placeholders. Other words in braces are left alone: JSON
// on a command line is full of them.
func (s *slot) expand(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	pairs := []string{
		"{index}", strconv.Itoa(s.index),
		"{name}", s.name,
		"{gpus}", strings.Join(s.gpus, ","),
	}
	if s.wantsSocket {
		pairs = append(pairs, "{socket}", s.socket)
	}
	if s.port != 0 {
		pairs = append(pairs, "{port}", strconv.Itoa(s.port))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (s *slot) expandAll(words []string) []string {
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = s.expand(word)
	}
	return out
}

// environment is the engine's: the master's own, the user's, the slot's values, the pool's.
func (s *slot) environment() []string {
	values := map[string]string{"STOKER_INDEX": strconv.Itoa(s.index), "STOKER_NAME": s.name}
	if s.wantsSocket {
		values["STOKER_SOCKET"] = s.socket
	}
	if s.port != 0 {
		values["STOKER_PORT"] = strconv.Itoa(s.port)
	}
	if s.pool.GPUsPerWorker > 0 {
		values["STOKER_GPUS"] = strings.Join(s.gpus, ",")
		values["CUDA_VISIBLE_DEVICES"] = strings.Join(s.gpus, ",")
	}
	own := make(map[string]string, len(s.pool.Env))
	for name, value := range s.pool.Env {
		own[name] = s.expand(value)
	}
	var login map[string]string
	if s.account != nil {
		login = s.account.env
	}
	return environment(s.environ(), login, values, own)
}

// makeDirs makes the keeper's directory, and the engine's, which belongs to the
// engine's user and to nobody else.
func (s *slot) makeDirs() error {
	if err := os.MkdirAll(s.keeperDir, 0o700); err != nil {
		return fmt.Errorf("make the keeper's directory: %w", err)
	}
	if err := os.MkdirAll(s.engineDir, 0o700); err != nil {
		return fmt.Errorf("make the engine's directory: %w", err)
	}
	if s.account == nil {
		return nil
	}
	if err := os.Lchown(s.engineDir, int(s.account.credential.UID), int(s.account.credential.GID)); err != nil {
		return fmt.Errorf("give the engine's directory to its user: %w", err)
	}
	// The way to it must be open; what lies beside it has its own modes.
	for _, dir := range []string{s.runDir, filepath.Dir(s.engineDir)} {
		if err := openWay(dir); err != nil {
			return fmt.Errorf("let the engine's user reach its directory: %w", err)
		}
	}
	return nil
}

// openWay lets others pass through dir, not read it.
func openWay(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o011 == 0o011 {
		return nil
	}
	return os.Chmod(dir, info.Mode().Perm()|0o011)
}

// Pauses between two runs of the gone command.
const gonePause = 500 * time.Millisecond

// Gone runs the pool's gone command until it succeeds, or ctx ends.
func (s *slot) Gone(ctx context.Context) error {
	if len(s.pool.Stop.GoneCommand) == 0 {
		return nil
	}
	for {
		err := s.askGone(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last time: %w", context.Cause(ctx), err)
		case <-time.After(gonePause):
		}
	}
}

// askGone runs it once, with the engine's environment and user.
func (s *slot) askGone(ctx context.Context) error {
	p := program{argv: s.expandAll(s.pool.Stop.GoneCommand), env: s.environment(), dir: s.pool.Dir, account: s.account}
	out, err := p.run(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w%s", p.argv[0], err, quoted(out))
	}
	return nil
}
