package supervisor

// State is how a worker is, as a fact. See the package comment for the table.
type State string

// The states of a worker. Stopped, Failed and Released are terminal.
const (
	// Starting: a keeper is being spawned or re-attached.
	Starting State = "starting"
	// Loading: the engine runs and does not answer its probes yet.
	Loading State = "loading"
	// Ready: the worker serves. The only state in the pool.
	Ready State = "ready"
	// Watching: in the pool, and another master's by now: see HandOver.
	Watching State = "watching"
	// Draining: out of the pool, and its requests may finish.
	Draining State = "draining"
	// Stopping: the engine, or what is left of its tree, is being ended.
	Stopping State = "stopping"
	// Backoff: nothing runs; the slot waits to start again.
	Backoff State = "backoff"
	// Stopped: nothing runs, and that was wished. Terminal.
	Stopped State = "stopped"
	// Failed: the supervisor has given up. Terminal.
	Failed State = "failed"
	// Released: the engine runs on for another master. Terminal.
	Released State = "released"
)

// states in the order of a life, for metrics.
var states = [...]State{Starting, Loading, Ready, Watching, Draining, Stopping, Backoff, Stopped, Failed, Released}

// terminal reports whether a worker never leaves s.
func (s State) terminal() bool { return s == Stopped || s == Failed || s == Released }

// serves reports whether a worker in s is in the pool.
func (s State) serves() bool { return s == Ready || s == Watching }

// takesTurn reports whether a worker in s counts against max_starting.
func (s State) takesTurn() bool { return s == Starting || s == Loading }

// reason is the kind of a cause: few and fixed, since they label metrics.
type reason string

// The reasons. Those marked "failure" count towards max_failures.
const (
	reasonProgress     reason = "progress"      // the life goes on as it should
	reasonWish         reason = "wish"          // somebody asked for it
	reasonChanged      reason = "changed"       // a leftover of another configuration
	reasonSettings     reason = "settings"      // the same state begins again, with new settings
	reasonExited       reason = "exited"        // failure: an exit code, 0 included
	reasonSignaled     reason = "signaled"      // failure: ended by a signal that was not ours
	reasonNotExecuted  reason = "not_executed"  // failure: exec did not succeed
	reasonNotStarted   reason = "not_started"   // failure: no room, or no keeper
	reasonKeeperLost   reason = "keeper_lost"   // failure: the keeper was killed
	reasonStartTimeout reason = "start_timeout" // failure: never became ready
	reasonUnhealthy    reason = "unhealthy"     // failure: probes were answered badly, or nobody listens
	reasonHung         reason = "hung"          // failure: no sign of life, see judge
)

// restartReasons label stoker_worker_restarts_total.
var restartReasons = [...]reason{
	reasonWish, reasonChanged, reasonExited, reasonSignaled, reasonNotExecuted, reasonNotStarted, reasonKeeperLost,
	reasonStartTimeout, reasonUnhealthy, reasonHung,
}

// failure reports whether a start again for this reason counts as a failure.
func (r reason) failure() bool {
	return r != reasonProgress && r != reasonWish && r != reasonChanged && r != reasonSettings
}

// cause is why a state was left: a reason to count and a sentence to read.
type cause struct {
	reason reason
	text   string
	// details are further key-value pairs for the log line.
	details []any
}

func progress(text string) cause { return cause{reason: reasonProgress, text: text} }
