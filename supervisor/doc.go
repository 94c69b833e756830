// Package supervisor keeps engines alive: one worker per slot, one state
// machine per worker, one goroutine that owns it. It writes upstream.Pool (who
// can serve) and knows nothing of requests, routes or who reads the pool.
//
// # A worker's life
//
// The wish (run, stop, release) comes from outside; the state is a fact and is
// set by the worker's own goroutine alone. A state is a method that returns the
// next state and its cause; transition alone logs, counts, publishes, and lets
// the worker into the pool or takes it out.
//
//	state     means                                      leaves on
//	starting  a keeper is being spawned, or the one      engine runs                → loading
//	          that an earlier master left re-attached    leftover that has ended,
//	                                                     lost its keeper or differs,
//	                                                     never executed, wish       → stopping
//	                                                     no keeper could be started,
//	                                                     or the slot is unclear     → backoff, failed
//	                                                     its turn has not come      → backoff
//	                                                     wish, before a spawn       → stopped, released;
//	                                                       the slot is unclear      → failed
//	loading   the engine runs and does not answer yet    probe succeeded            → ready
//	          (minutes)                                  start time-out, exit,
//	                                                     keeper lost, wish stop     → stopping
//	                                                     wish release               → released
//	ready     the only state in the pool                 probes answered badly, or
//	                                                     nobody listens             → draining
//	                                                     no sign of life (judge.go),
//	                                                     exit, keeper lost          → stopping
//	                                                     wish stop                  → stopping, draining
//	                                                     wish release               → draining
//	draining  out of the pool; its requests may finish   idle, limit, hurry         → stopping
//	                                                     the same, wish release     → released
//	                                                     exit, keeper lost          → stopping
//	stopping  TERM is sent, then KILL to the whole tree; nothing left, wish run     → backoff, failed
//	          after an exit only the tree's rest is      nothing left, wish stop    → stopped
//	          ended                                      nothing left, wish release → released
//	                                                     survived KILL              → failed
//	                                                     another master's engine    → released
//	                                                     its keeper lives after all → starting
//	backoff   nothing runs; waits for its delay, for     all of them over           → starting
//	          the gone command and its turn to load      wish                       → stopped, released;
//	                                                       the slot is unclear      → starting
//	watching  in the pool, and a successor's by now: a   engine ended, keeper lost,
//	          ready worker after HandOver                Leave                      → released
//	stopped   nothing runs, as was wished                terminal
//	failed    given up: too many failures in a row, or   terminal
//	          an engine that could not be ended
//	released  another master's, or nobody's: untouched   terminal
//
// Any exit that nobody wished is a failure, exit code 0 included: an API server
// whose engine core died shuts down "cleanly". Failures are forgotten only
// after a spell of ready, else a crash just after ready would loop for ever.
// A worker that lost its keeper passes through stopping too: its tree is ended
// by recorded identity before the slot is used again, so that there are never
// two engines on one slot.
//
// # Asking a worker
//
// A read (Status, Ready) informs, only the owner decides: a request is handed
// over a channel to the worker's goroutine, which hears it in every state and
// during every action that takes time. A request is a wish, or new settings,
// which hold from the end of the present state on (ready and loading begin
// anew for them).
//
// # Posts
//
// A wish only moves forward, and a worker that has ended is never revived. What
// stays is the post: a name, an index, devices and a member of the upstream
// pool, at which workers follow each other. Operators' wishes and configurations
// belong to posts: see operate.go for what operators ask, roll.go for changes
// one after another, apply.go for a new configuration.
package supervisor
