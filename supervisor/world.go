package supervisor

import (
	"context"
	"syscall"
	"time"

	"stoker/config"
	"stoker/supervisor/keeper"
	"stoker/upstream"
)

// engine is one running engine as its keeper tells of it. *keeper.Client is one.
type engine interface {
	// State is the latest that is known; it stays readable after Lost.
	State() keeper.State
	// Versions are those of the protocol that the keeper speaks.
	Versions() (lowest, highest int)
	// Updates delivers after State has changed; several changes may count as one.
	Updates() <-chan struct{}
	// Lost is closed when the keeper is gone.
	Lost() <-chan struct{}
	// Claim makes this master the owner; a lower epoch than the present owner's is refused.
	Claim(ctx context.Context, epoch uint64) error
	// Stop asks the engine to end and has its whole tree killed after grace. A
	// second call with a shorter grace hurries; 0 kills now. That nothing is
	// left shows in State.
	Stop(ctx context.Context, sig syscall.Signal, grace time.Duration) error
	// Tail is the last of the engine's output.
	Tail(ctx context.Context) ([]byte, error)
	// Hold has its output held back from now on, for so long at most; 0 passes on what is.
	Hold(ctx context.Context, limit time.Duration) error
	// Ack says that the exit has been read: the keeper may go.
	Ack(ctx context.Context) error
	// Close lets go of the keeper, which goes on.
	Close() error
}

// keepers is the way to engines.
type keepers interface {
	// Spawn starts a keeper and its engine.
	Spawn(ctx context.Context, l launch) (engine, error)
	// Attach finds the engine that an earlier master left in dir. Its errors
	// are keeper's ErrNoKeeper, ErrForeign and ErrKeeperDead.
	Attach(ctx context.Context, dir string) (engine, error)
	// EndOrphan ends what a dead keeper left in dir, by recorded identity, with
	// KILL after grace, and clears dir. It returns once nothing is left. Its
	// errors are keeper's ErrBusy, when the keeper lives after all, and ErrForeign.
	EndOrphan(ctx context.Context, dir string, grace time.Duration) (*keeper.Report, error)
}

// launch is everything about one start of an engine.
type launch struct {
	dir     string // the keeper's
	address string // where the engine will listen
	intent  keeper.Intent
}

// place is where the engines of one worker run, one after another.
type place interface {
	// KeeperDir is the directory of the worker's keeper.
	KeeperDir() string
	// Prepare makes room for one start. The address is the worker's own until Vacate.
	Prepare(epoch uint64) (launch, error)
	// Occupy takes note that an adopted engine listens on address.
	Occupy(address string)
	// Vacate gives the address back: nothing runs here any more.
	Vacate()
	// Gone waits until what an ended engine held is free (GPU memory).
	Gone(ctx context.Context) error
	// Configure goes by new settings, of which the engine's start is the same.
	Configure(p *config.Pool)
	// Fingerprint tells engines of one configuration from those of another.
	Fingerprint() string
}

// member is a worker's or server's place in the pool. *upstream.Member is one.
type member interface {
	// ResetPeer says where a new engine listens, and what it speaks.
	ResetPeer(p upstream.Peer)
	SetReady(ready bool)
	// SetExpected says whether it will be ready soon, as far as one can tell:
	// requests then wait for it.
	SetExpected(expected bool)
	// Died says that its engine has ended unwished, or is to be killed for its
	// health: what was in flight at since or later may be why.
	Died(since time.Time)
	// Cut ends its requests at once, and returns how many there were.
	Cut() int
	// Move asks its requests that can go on elsewhere to do so, and returns how
	// many there were.
	Move() int
	// Dismiss asks the clients of its WebSockets to go.
	Dismiss()
	// Breaker is how its breaker is.
	Breaker() upstream.BreakerState
	InFlight() int
	// Elsewhere is how many of these pass through another process.
	Elsewhere() int
	// Doubt keeps new requests from it for a while, if others can take them or
	// they may wait.
	Doubt(doubted bool)
	// Questions is how often something on it has ended as on an engine that is about
	// to end, and whether nobody has vouched for it since; Vouch does, for the first
	// asked of them. See question.go.
	Questions() (asked uint64, open bool)
	Vouch(asked uint64)
	// SetLoad says what its engine says of its own load; nil: nobody knows.
	SetLoad(l *upstream.EngineLoad)
	// Load is that.
	Load() upstream.EngineLoad
	// WaitIdle blocks until no request is in flight, or ctx ends.
	WaitIdle(ctx context.Context) error
	// Progress is the number of bytes that came from there so far.
	Progress() uint64
	// Kick delivers when a dial was refused, which has already taken the member
	// out of the pool, or when it was questioned.
	Kick() <-chan struct{}
}

// probe asks an upstream once how it is; nil is well.
type probe func(ctx context.Context) error

// Keys of keeper.Intent.Label, by which a later master knows what it finds.
// They are a contract between versions.
const (
	labelAddress     = "address"
	labelFingerprint = "fingerprint"
)
