// Package keeper owns one engine process, from the moment it is started until
// its whole tree is gone and its exit has been read. A keeper is a small
// process of its own, so that an engine survives every master; its protocol
// and files are a contract between versions of stoker that may be months apart.
//
// It imports nothing of ours and knows nothing of pools, health or HTTP.
//
// # Who is who
//
//	master ── Client ──(unix socket)── keeper ──(parent of)── engine ── its workers, helpers, daemons
//
// The keeper leads a session of its own, is the child subreaper of everything
// below it and the sole parent of its engine, which leads a process group in
// the keeper's session and carries STOKER_NONCE in its environment. Whatever
// loses its parent below the keeper becomes the keeper's child. Hence the one
// test of "the tree is gone" that needs no bookkeeping: wait4 says ECHILD.
//
// # Life
//
//	phase     means                                            leaves on
//	starting  files and socket are there, exec is under way    executed → running; cannot execute → ended (Exit.Error)
//	running   the engine's first process lives                 it exits → ending, or straight to ended if it was the last
//	ending    it has exited (Exit is set), others live on      ECHILD → ended
//	ended     nothing is left; the exit waits for its ack      terminal
//
// Stopping is not a phase but a mark on running and ending: once begun it is
// never taken back, only hurried.
//
// Ending the tree, when asked to: the signal and then CONT (a stopped process
// acts on nothing else) to the engine's group; after the grace KILL to the
// group and to every descendant, in rounds, until ECHILD. When the first
// process exits, asked or not, what is left gets TERM and CONT at once and KILL
// after 5 seconds or the grace, whichever is shorter. Rounds start 10 ms apart
// and slow down to 1 s while nothing new is seen, so that a process which
// cannot die (uninterruptible sleep) costs nothing; State.Left counts those.
// A descendant is signalled through a pidfd whose start time was compared, the
// group through the engine's own pidfd or while the engine is not yet reaped:
// a number that was given to somebody else is never signalled.
//
// # Owners
//
// Any number of connections (at most 16) observe. One owns: the one with the
// highest epoch. A claim with a lower epoch is refused; one with the same epoch is
// refused while another connection holds it, and accepted when that one has
// broken, so that an owner may come back. Stop, signal, ack, log and hold are the
// owner's alone. Without an owner for Intent.OrphanTimeout the keeper ends its engine
// with Intent.StopSignal and StopGrace; once the tree is gone and still nobody owns, it leaves exit.json behind and exits: no GPU is held for ever.
//
// # Signals to the keeper itself
//
// TERM and INT end the engine as an orphan's when nobody owns the keeper, and
// are ignored while somebody does: "killall stoker" reaches master and keepers
// alike, and the master wants its drain before the engines go. HUP, QUIT, USR1,
// USR2, PIPE, TTIN, TTOU and the like are meant for a master or for nobody and
// are ignored. Ignored means caught and dropped: a really ignored signal would
// stay ignored in the engine.
//
// # Protocol, versions 1 and 2
//
// Frames are JSON objects, one per line: at most 4 KiB towards the keeper, 1 MiB
// towards a client. Unknown fields are ignored, an unknown op is answered with
// the error unknown_op; both sides may therefore add. A line that is too long
// or no JSON object ends that connection and nothing else.
//
//	keeper: {"op":"hello","min":1,"max":2,"keeper_start":N,"state":{…}}     first, on every connection
//	client: {"op":"hello","id":1,"min":1,"max":2}                            within 5 s, then any of
//	        {"op":"claim","id":2,"epoch":3}
//	        {"op":"stop","id":3,"signal":15,"grace":NANOSECONDS}
//	        {"op":"signal","id":4,"signal":10}
//	        {"op":"tail","id":5}
//	        {"op":"ack","id":6}
//	        {"op":"log","id":7} and a descriptor                              since version 2
//	        {"op":"hold","id":8,"grace":NANOSECONDS}                          older keepers say unknown_op
//	keeper: {"op":"reply","id":2,"state":{…}}  or  {"op":"reply","id":2,"error":CODE,"message":TEXT,"state":{…}}
//	keeper: {"op":"state","state":{…}}                                       whenever it changes
//
// The version spoken is the highest that both ranges hold; none: error version.
// State is level-triggered: changes may be merged, the one with the highest seq
// is the whole truth. Codes: version, bad_frame, unknown_op, stale_epoch,
// not_owner, not_running, not_ended, bad_signal, bad_descriptor, busy.
//
// Log makes the descriptor that comes with it, as SCM_RIGHTS in one sendmsg with
// the frame, the keeper's stderr and stdout, from the next line on: output
// follows the owner, be it in another terminal than the master before. Of the
// descriptors that come with a frame the first is received, and closed at once
// unless the frame is a log; others never come to exist in the keeper.
//
// Hold keeps the engine's output back for so long, 0 passes it on; what it is for
// stands at Intent.HoldOutput, with which an engine's life begins.
//
// A version that was ever released is kept as a frozen program of its own
// (testdata/keeperv1, build tag keeperv1), and today's keeper and client are
// tested against it: engines started by it are still there after an upgrade.
//
// A keeper is spawned with descriptor 3 = its lock, already held, and 4 = one
// end of a socket pair: the first owner's connection, claimed from birth with
// Intent.Epoch. Later ones come through keeper.sock (0600, peer's uid checked).
//
// # Files in the keeper's directory (0700, each 0600, written as temp + rename)
//
//	keeper.lock   flock held by the keeper as long as it lives; never removed (a removed lock file can be held twice)
//	intent.json   by the master, before the spawn
//	state.json    by the keeper: before exec, after exec, on each change
//	tree.json     by the keeper: pid and start time of everybody below it, looked up every 0.25 s while that
//	              changes, slowing down to every 15 s while it does not, and when the first process has ended
//	exit.json     by the keeper: at once when the first process has ended, again when the tree is gone
//	keeper.sock   bound after the lock is held
//
// Nothing is synced to disk: what these files say is void after a reboot (they
// carry the boot id), and a crash of processes loses no page. A write that
// fails (disk full) is said on stderr and in State.Degraded, and changes nothing
// else. A change is written before it is published, the exit above all.
//
// # What holds at each point where somebody is killed
//
//	master before the spawn        intent.json alone, lock free: Attach says ErrKeeperDead, EndOrphan finds nobody and clears
//	master after the spawn         the keeper goes on; Attach, Claim(epoch+1)
//	keeper before exec             as the first line
//	keeper between exec and        state.json has no pid: EndOrphan finds the tree by STOKER_NONCE
//	  the write of state.json
//	keeper while running           connection ends at once (Client.Lost); EndOrphan ends the tree by recorded identity
//	keeper while ending            the same, and exit.json has the exact status
//	keeper after ended             exit.json has everything; EndOrphan finds nobody, reports it, clears
//	keeper after ack               files are gone or going; EndOrphan clears the rest
//	both                           a new master: Attach → ErrKeeperDead → EndOrphan
//
// # Identity
//
// Attach believes a keeper only if the directory and its files are ours, the
// socket's peer has our uid and, by SO_PEERCRED, the pid that the hello claims,
// that pid's start time is the hello's, the boot id is this boot's, and the
// nonce is the one in intent.json. Anything else is ErrForeign, and nothing is
// sent. EndOrphan holds the lock (so no keeper lives), and signals only what is
// proven: the engine, and whoever is in tree.json, by pid, start time and boot id;
// whoever has the nonce in its environment; whoever sits in the keeper's session with the engine's
// output pipe as stdout or stderr (setproctitle, as vLLM uses it, overwrites the
// environment that others can read); and from there all descendants of the
// proven and all members of their sessions, which only the keeper or its
// descendants can have begun.
package keeper
