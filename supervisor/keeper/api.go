// Package keeper owns one engine process, from the moment it is started until
// its whole tree is gone and its exit has been read. A keeper is a small
// process of its own, so that an engine survives every master; its protocol
// and files are a contract between versions of stoker that may be months apart.
//
// It imports nothing of ours and knows nothing of pools, health or HTTP.
package keeper

import "time"

// Intent is what a master asks a new keeper to do. It is written to the
// keeper's directory before the keeper is spawned.
type Intent struct {
	// Name of the worker; it prefixes every line of the engine's output.
	Name string `json:"name"`
	// Nonce is unique to this spawn (128 random bits, hex). The engine has it as
	// STOKER_NONCE in its environment, the keeper reports it in its hello: a
	// re-attaching master believes nobody without it.
	Nonce string   `json:"nonce"`
	Argv  []string `json:"argv"`
	// Env is the engine's whole environment.
	Env []string `json:"env"`
	Dir string   `json:"dir,omitempty"`
	// Credential is set when the engine runs as another user.
	Credential *Credential `json:"credential,omitempty"`
	// StopSignal (a number) and StopGrace are used when the keeper ends the
	// engine by itself, as an orphan.
	StopSignal int           `json:"stop_signal"`
	StopGrace  time.Duration `json:"stop_grace"`
	// OrphanTimeout is how long the keeper goes on without an owner; 0 for ever.
	OrphanTimeout time.Duration `json:"orphan_timeout"`
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
	Phase     Phase  `json:"phase"`
	Name      string `json:"name"`
	Nonce     string `json:"nonce"`
	KeeperPID int    `json:"keeper_pid"`
	// EnginePID and EngineStart (field 22 of /proc/PID/stat, clock ticks since
	// boot) together with the boot id name the engine for ever.
	EnginePID   int    `json:"engine_pid,omitempty"`
	EngineStart uint64 `json:"engine_start,omitempty"`
	BootID      string `json:"boot_id,omitempty"`
	// StartedAt is when the engine was executed.
	StartedAt time.Time         `json:"started_at"`
	Exit      *Exit             `json:"exit,omitempty"`
	Epoch     uint64            `json:"epoch"`
	Label     map[string]string `json:"label,omitempty"`
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
