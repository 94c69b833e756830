package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/internal/systemd"
)

// How often the service manager hears of us.
const (
	// beat is how often we look whether there is something to say.
	beat = time.Second
	// statusEvery limits status texts that differ in their numbers alone: each
	// of them wakes everybody who listens to systemd on the bus.
	statusEvery = 10 * time.Second
	// extension is asked for with each beat of a shutdown or a reload: what the
	// unit's time-outs do not know is how long this configuration may drain, and
	// its models load.
	extension = 15 * time.Second
	// barrierLimit bounds the wait for the manager to let go of the sockets.
	barrierLimit = 2 * time.Second
)

// notifier tells the service manager how the master is: nothing at all where
// none has started us. The master calls started, reloading, reloaded, leaving,
// stopping and retire when these things happen; status, watchdog and patience for
// an end follow by themselves until close.
//
// READY is said once the door is open and the engines are being started, not
// when they have loaded: requests wait in the queue meanwhile, and a start that
// took as long as a model's load would hold up the boot, and fail by
// TimeoutStartSec because of one engine in eight. The status text says how far
// they are; /readyz answers scripts that must wait for them.
type notifier struct {
	log      hclog.Logger
	manager  *systemd.Notifier
	watchdog time.Duration // 0: nobody watches

	// retired: a successor is the service's main process, and speaks for it.
	retired atomic.Bool
	// rolling counts the reloads that go on, which may take as long as models load.
	rolling atomic.Int32
	// leavesBy is when an end that has been asked for is to be over; nil: none has.
	leavesBy atomic.Pointer[time.Time]
	// complained: a failed notification has been logged.
	complained atomic.Bool

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// vitals are what the manager is told of a master.
type vitals struct {
	// status is a line for people. What counts changes rarely; numbers often.
	status func() (what, numbers string)
	// alive asks every loop of the master for a sign of life.
	alive func(ctx context.Context) error
}

// newNotifier finds the manager in the environment.
func newNotifier(log hclog.Logger) *notifier {
	n := &notifier{log: log, manager: systemd.FromEnv()}
	var err error
	if n.watchdog, err = systemd.WatchdogInterval(); err != nil {
		log.Warn("the service manager's watchdog is not served", "error", err)
	}
	return n
}

// started says that the service is up, and that this process is its main one:
// news only where it succeeds another. From now on the manager is kept informed.
func (n *notifier) started(v vitals) {
	if !n.manager.Enabled() {
		return
	}
	what, numbers := v.status()
	n.tell(systemd.MainPID(os.Getpid()), systemd.Ready, systemd.Watchdog, systemd.Status(what+numbers))
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.running.Go(func() { n.keepInformed(ctx, v) })
}

// takeOver makes this process the main one, and returns when the manager knows:
// a stop that it asks for from now on comes here. The generation before must not
// begin to leave earlier, or the stop would reach it alone.
//
// It is a sign of life too: upgrades that follow each other more quickly than
// the first ping comes would otherwise look like one master that hangs.
func (n *notifier) takeOver() {
	n.tell(systemd.MainPID(os.Getpid()), systemd.Watchdog)
	ctx, cancel := context.WithTimeout(context.Background(), barrierLimit)
	defer cancel()
	if err := n.manager.Barrier(ctx); err != nil {
		n.log.Warn("the service manager may not know the new main process yet", "error", err)
	}
}

// reloading says that a change of the configuration has begun; reloaded that it
// is over, whether it was applied or refused.
func (n *notifier) reloading() { n.tell(systemd.Reloading()) }
func (n *notifier) reloaded()  { n.tell(systemd.Ready) }

// leaving is called as soon as an end is asked for, which is worth waiting for
// within the limit. The first word goes out at once: a unit that gives its stops
// no time at all has begun to count before we heard of it, and in an upgrade the
// shutdown itself is yet to come.
func (n *notifier) leaving(limit time.Duration) {
	by := time.Now().Add(limit)
	n.leavesBy.Store(&by)
	n.tell(systemd.ExtendTimeout(extension))
}

// leaves says that an end is under way, and within its limit. Past that something
// hangs, and the service manager shall do as it thinks right.
func (n *notifier) leaves() bool {
	by := n.leavesBy.Load()
	return by != nil && time.Now().Before(*by)
}

// stopping says that the shutdown has begun.
func (n *notifier) stopping() { n.tell(systemd.Stopping) }

// retire leaves the word to a successor, whose started makes it the main process.
func (n *notifier) retire() { n.retired.Store(true) }

// close ends what started began.
func (n *notifier) close() {
	if n.cancel != nil {
		n.cancel()
	}
	n.running.Wait()
}

// tell sends, and logs the first failure: a manager that is gone will not be
// told, and the service goes on without.
func (n *notifier) tell(states ...systemd.State) {
	if n.retired.Load() {
		return
	}
	if err := n.manager.Send(states...); err != nil && !n.complained.Swap(true) {
		n.log.Warn("the service manager cannot be told how we are", "error", err)
	}
}

// keepInformed runs beside the master's life. It waits for the master without
// a limit where it needs its locks: a master that hangs shall hang this too,
// since it is the missing watchdog message that gets it replaced.
func (n *notifier) keepInformed(ctx context.Context, v vitals) {
	every := time.NewTicker(n.pace())
	defer every.Stop()
	var said string
	var saidAt time.Time
	lastWhat := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if n.leaves() || n.rolling.Load() > 0 {
			n.tell(systemd.ExtendTimeout(extension))
		}
		what, numbers := v.status()
		if text := what + numbers; what != lastWhat || text != said && time.Since(saidAt) >= statusEvery {
			n.tell(systemd.Status(text))
			said, saidAt, lastWhat = text, time.Now(), what
		}
		if n.watchdog > 0 {
			n.ping(ctx, v)
		}
	}
}

// pace is a third of the watchdog's interval, or the beat if that is shorter.
func (n *notifier) pace() time.Duration {
	if n.watchdog > 0 {
		return min(beat, n.watchdog/3)
	}
	return beat
}

// ping tells the watchdog that we live, if we do.
func (n *notifier) ping(ctx context.Context, v vitals) {
	limited, cancel := context.WithTimeout(ctx, n.watchdog/2)
	defer cancel()
	switch err := v.alive(limited); {
	case err == nil:
		n.tell(systemd.Watchdog)
	case ctx.Err() == nil:
		n.log.Error("a part of this master does not respond; the service manager replaces it unless it recovers, and engines live on",
			"error", err, "watchdog", n.watchdog)
	}
}

// vitals of this master.
func (m *master) vitals() vitals {
	return vitals{
		status: m.statusText,
		alive:  m.alive,
	}
}

// leaving asks the service manager for patience with the end that begins: the
// shutdown's limit, or what is left of an upgrade that has to be over before.
func (m *master) leaving() {
	cfg := m.current.Load()
	m.notifier.leaving(max(cfg.Shutdown.HardLimit.Std(), cfg.UpgradeTimeout.Std()) + extension)
}

// statusText is what "systemctl status" shows.
func (m *master) statusText() (what, numbers string) {
	switch m.now() {
	case draining:
		return "draining", fmt.Sprintf(": %d requests in flight", m.front.InFlight())
	case stopping:
		return "stopping: ending the engines", ""
	case serving:
	}
	ready, total := m.sup.Ready()
	what = fmt.Sprintf("%d of %d upstreams ready", ready, total)
	if m.state() == stateStarting {
		what = "starting: " + what
	}
	return what, fmt.Sprintf(", %d requests in flight", m.front.InFlight())
}

// alive asks the admin listener from outside, which takes the runtime, the
// poller, the pools' locks and the supervisor's facts to answer, and each
// worker's own goroutine. The door is not asked: under a flood of clients its
// queue is full, which is no reason to be killed.
func (m *master) alive(ctx context.Context) error {
	if m.now() == serving {
		if err := askAdmin(ctx, m.cfg.AdminSocket()); err != nil {
			return fmt.Errorf("admin listener: %w", err)
		}
	}
	return m.sup.Responds(ctx)
}

// askAdmin gets any answer at all.
func askAdmin(ctx context.Context, socket string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://stoker/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}
