package keeper

import (
	"errors"
	"time"
)

// What can be wrong with a keeper, a claim or an engine. All are matched with errors.Is.
var (
	// ErrNoKeeper: the directory is absent or holds no trace of a keeper.
	ErrNoKeeper = errors.New("no keeper")
	// ErrKeeperDead: a keeper's files are there, the keeper is not. EndOrphan
	// ends what it left and clears the directory.
	ErrKeeperDead = errors.New("keeper is dead")
	// ErrForeign: somebody or something is there that is not ours, or not what
	// the files say. Nothing was sent to it and nobody was signalled.
	ErrForeign = errors.New("identity is not proven")
	// ErrBusy: another keeper (or somebody ending one) holds the directory.
	ErrBusy = errors.New("directory is held by another keeper")
	// ErrVersion: the keeper speaks no version that we speak.
	ErrVersion = errors.New("no common protocol version")
	// ErrLost: the connection to the keeper ended before the answer came.
	ErrLost = errors.New("connection to the keeper ended")
	// ErrStaleEpoch: somebody owns the keeper with a higher epoch, or another
	// connection with the same one.
	ErrStaleEpoch = errors.New("epoch is stale")
	// ErrNotOwner: this connection has not claimed, or a higher epoch has since.
	ErrNotOwner = errors.New("not the owner")
	// ErrNotRunning: the engine's first process does not live.
	ErrNotRunning = errors.New("engine is not running")
	// ErrNotEnded: an ack came before the end.
	ErrNotEnded = errors.New("engine has not ended")
	// ErrUnsupported: the keeper is older than what was asked of it.
	ErrUnsupported = errors.New("keeper does not know this request")
)

// Intent is what a master asks a new keeper to do. It is written to the
// keeper's directory before the keeper is spawned.
type Intent struct {
	// Name of the worker; it prefixes every line of the engine's output.
	Name string `json:"name"`
	// Nonce is unique to this spawn (128 random bits, hex). The engine has it as
	// STOKER_NONCE in its environment, the keeper reports it in its hello: a
	// re-attaching master believes nobody without it. Spawn makes one when it is empty.
	Nonce string   `json:"nonce"`
	Argv  []string `json:"argv"`
	// Env is the engine's whole environment. A command without a slash is
	// looked for in the PATH that it holds.
	Env []string `json:"env"`
	// Dir is the engine's working directory; Spawn fills in the master's when it is empty.
	Dir string `json:"dir,omitempty"`
	// Credential is set when the engine runs as another user.
	Credential *Credential `json:"credential,omitempty"`
	// StopSignal (a number, 0 means TERM) and StopGrace are used when the keeper
	// ends the engine by itself, as an orphan; StopGrace also bounds what the
	// engine leaves behind when it exits.
	StopSignal int           `json:"stop_signal"`
	StopGrace  time.Duration `json:"stop_grace"`
	// OrphanTimeout is how long the keeper goes on without an owner; 0 for ever.
	OrphanTimeout time.Duration `json:"orphan_timeout"`
	// HoldOutput is how long the engine's output is held back, so that one which dies
	// at each start does not fill the log with the same lines: what it has written
	// when it ends by itself within that time is in its Tail alone, unless its owner
	// has it passed on before the ack; see Client.Hold. 0: not at all.
	HoldOutput time.Duration `json:"hold_output,omitempty"`
	// Epoch is the first owner's.
	Epoch uint64 `json:"epoch"`
	// Label is the master's own data, kept and returned untouched (address,
	// configuration hash, …).
	Label map[string]string `json:"label,omitempty"`
}

// Credential is a user to run as.
type Credential struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Phase is how far an engine's life has come. It only moves forward.
type Phase string

// The phases.
const (
	// Starting: the engine has not been executed yet.
	Starting Phase = "starting"
	// Running: the engine's first process lives.
	Running Phase = "running"
	// Ending: the first process has ended (Exit is set); others of its tree live on and are being ended.
	Ending Phase = "ending"
	// Ended: nothing of the tree is left. Terminal; the keeper waits for an ack.
	Ended Phase = "ended"
)

// State is what a keeper says of its engine, to whoever observes, whenever it
// changes. It is level-triggered: the latest one is the whole truth.
type State struct {
	// Seq rises with every change: of two states the higher one is the newer.
	Seq   uint64 `json:"seq"`
	Phase Phase  `json:"phase"`
	// Stopping: an end was asked for, by the owner or as an orphan.
	Stopping  bool   `json:"stopping,omitempty"`
	Name      string `json:"name"`
	Nonce     string `json:"nonce"`
	KeeperPID int    `json:"keeper_pid"`
	// EnginePID and EngineStart (field 22 of /proc/PID/stat, clock ticks since
	// boot) together with the boot id name the engine for ever.
	EnginePID   int    `json:"engine_pid,omitempty"`
	EngineStart uint64 `json:"engine_start,omitempty"`
	BootID      string `json:"boot_id,omitempty"`
	// StartedAt is when the engine was executed.
	StartedAt time.Time `json:"started_at"`
	Exit      *Exit     `json:"exit,omitempty"`
	// Left is how many processes of the tree have outlived a KILL for a second
	// or more, as one in uninterruptible sleep (a hung device) does.
	Left  int               `json:"left,omitempty"`
	Epoch uint64            `json:"epoch"`
	Label map[string]string `json:"label,omitempty"`
	// Degraded says what the keeper cannot do for now, such as write its files
	// on a full disk; empty when all is well.
	Degraded string `json:"degraded,omitempty"`
}

// Exit is how an engine ended.
type Exit struct {
	// Code is the exit code, -1 when a signal ended it or it never ran.
	Code int `json:"code"`
	// Signal that ended it, 0 if none.
	Signal int  `json:"signal,omitempty"`
	Core   bool `json:"core,omitempty"`
	// Error is set when the engine could not even be executed (exec: …).
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
	// Forced: the keeper had to send KILL, to the engine or to what was left of its tree.
	Forced bool `json:"forced,omitempty"`
}

// ExitRecord is what a keeper leaves in its directory for a master that was
// not there when the engine ended.
type ExitRecord struct {
	State State `json:"state"`
	// Tail is the engine's last output, at most 64 KiB.
	Tail []byte `json:"tail,omitempty"`
	// Orphaned: the keeper ended its engine because nobody owned it.
	Orphaned bool `json:"orphaned,omitempty"`
}
