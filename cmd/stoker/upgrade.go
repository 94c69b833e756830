package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"stoker/internal/failpoint"
	"stoker/supervisor"
)

// A binary upgrade replaces the master by a new process of the same command
// line, which inherits the listeners, the run directory's lock and a link
// (link.go), while engines live on under their keepers:
//
//	this master                            the new process
//	preflight: the binary runs, and
//	likes the configuration
//	waits for the generation before
//	it to end, if one still drains
//	executes                    ────────▶  claims what it inherits
//	serves on as if nothing were           observes the keepers, probes: what
//	                                       goes wrong up to here is told, and
//	                                       costs nothing but this process
//	                            ◀────────  Ready: there is no way back
//	hands the engines over, serves on      claims the keepers with a new epoch,
//	                            ◀────────  accepts, says that it serves
//	leaves door, admin, lock; says
//	what it counted; finishes its
//	requests (retire.go)
//
// If this master dies before Ready, the new process is the master: its Ready
// finds nobody to tell, and that is a promotion. If the new one dies between
// Ready and saying that it serves, this one cannot take the engines back: it
// shuts its door, finishes its requests, and leaves the engines to whoever is
// started next. At every moment at most one of them acts on engines.

// upgrades runs upgrades one at a time. Whoever asks while one goes on joins it.
type upgrades struct {
	m *master

	mu      sync.Mutex
	current *attempt
	over    bool
	work    sync.WaitGroup
	ctx     context.Context // ends with the master's service
	cancel  context.CancelFunc

	// succeeded delivers the attempt that did.
	succeeded chan *attempt
}

// attempt is one upgrade, asked for by any number of people.
type attempt struct {
	began time.Time
	link  *link
	// observed is what the new process found.
	observed []supervisor.Observed
	failure  string // as the new process told it
	// serving is set once the new process serves, which may be known before
	// tableflip has told of its Ready.
	serving *servingMessage

	done   chan struct{} // closed when result or err is set
	result *upgradeResult
	err    error
}

// upgradeResult is the document that answers POST /upgrade.
type upgradeResult struct {
	// PID, Generation and Version are the new master's.
	PID        int    `json:"pid"`
	Generation int    `json:"generation"`
	Version    string `json:"version"`
	// Adopted are the engines that go on.
	Adopted []supervisor.Observed `json:"adopted"`
	// Seconds from the request to the new master's serving.
	Seconds float64 `json:"seconds"`
}

func newUpgrades(m *master) *upgrades {
	u := &upgrades{m: m, succeeded: make(chan *attempt, 1)}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	return u
}

// errEnding: it is too late for an upgrade.
var errEnding = errors.New("this master is ending; ask the one that runs now")

// ask begins an upgrade, or joins the one that goes on.
func (u *upgrades) ask() *attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current != nil {
		return u.current
	}
	a := &attempt{began: time.Now(), done: make(chan struct{})}
	if u.over {
		a.err = errEnding
		close(a.done)
		return a
	}
	u.current = a
	u.work.Go(func() { u.run(a) })
	return a
}

// run makes one attempt. One that succeeded stays the current one, and is
// settled by retire.
func (u *upgrades) run(a *attempt) {
	err := u.try(a)
	if err == nil {
		// From here on nothing of ours touches an engine.
		u.m.sup.HandOver()
		u.succeeded <- a
		return
	}
	u.m.log.Error("upgrade failed; this master goes on as before", "error", err)
	u.mu.Lock()
	u.current = nil
	u.mu.Unlock()
	a.settle(nil, err)
}

// settle tells everybody who asked.
func (a *attempt) settle(result *upgradeResult, err error) {
	a.result, a.err = result, err
	close(a.done)
}

// try does it all up to the new process's Ready.
func (u *upgrades) try(a *attempt) error {
	if isContainerInit() {
		return errors.New("this master is the first process of its container (pid 1): its end would end the container; start a new container instead")
	}
	if err := preflight(u.ctx, u.m.cfg.UpgradeTimeout.Std(), u.m.sup.KeeperProtocols()); err != nil {
		return err
	}
	queued, err := u.queue()
	if err != nil {
		return err
	}
	if queued {
		// The file may have been replaced once more meanwhile.
		err = preflight(u.ctx, u.m.cfg.UpgradeTimeout.Std(), u.m.sup.KeeperProtocols())
	}
	if err == nil {
		u.m.log.Info("upgrading: executing the new generation", "command", os.Args[0])
		err = u.execute(a)
	}
	if err != nil {
		u.m.gate.open()
	} else {
		u.m.gate.handOver()
	}
	return err
}

// queue waits until nobody else changes what runs: the generation before has
// ended, and every order has been carried out. From then on orders wait.
func (u *upgrades) queue() (queued bool, err error) {
	if u.m.elder.draining() {
		queued = true
		u.m.log.Info("upgrade queued until the generation before has ended", "older_pid", u.m.elder.hello.PID)
		if err := u.m.inherit.upgrader.WaitForParent(u.ctx); err != nil && u.ctx.Err() != nil {
			return queued, errEnding
		}
	}
	err = u.m.gate.close(u.ctx, func(orders int) {
		queued = true
		u.m.log.Info("upgrade queued until what operators have ordered has come about", "orders", orders)
	})
	if err != nil {
		return queued, errEnding
	}
	return queued, nil
}

// execute starts the new process and waits until it has committed or failed.
func (u *upgrades) execute(a *attempt) error {
	link, its, err := newLinkPair()
	if err != nil {
		return err
	}
	err = u.m.inherit.upgrader.AddFile(linkFile, its)
	if err = errors.Join(err, its.Close()); err == nil {
		err = link.send(message{Hello: u.m.hello()})
	}
	if err != nil {
		link.close()
		return fmt.Errorf("make link: %w", err)
	}
	a.link = link
	result := make(chan error, 1)
	go func() { result <- upgradeOnce(u.ctx, u.m.inherit) }()
	for {
		select {
		case m := <-link.incoming:
			a.hear(m)
		case err := <-result:
			if err == nil {
				return nil
			}
			err = u.explain(a, err)
			link.close()
			a.link = nil
			return err
		}
	}
}

// hear takes note of what the new process says.
func (a *attempt) hear(m message) {
	switch {
	case m.Prepared != nil:
		a.observed = m.Prepared.Observed
		failpoint.Hit("old-before-ready")
	case m.Failed != "":
		a.failure = m.Failed
	case m.Serving != nil:
		a.serving = m.Serving
	}
}

// lastWords is how long to look for what a process said just before it ended.
const lastWords = time.Second

// explain says why the new process did not make it.
func (u *upgrades) explain(a *attempt, err error) error {
	if strings.Contains(err.Error(), "timed out") {
		return fmt.Errorf("the new process was not ready within upgrade_timeout %s and was killed: %w", u.m.cfg.UpgradeTimeout.Std(), err)
	}
	if a.failure == "" {
		over := time.NewTimer(lastWords)
		defer over.Stop()
		for m, err := a.link.next(over.C); err == nil && a.failure == ""; m, err = a.link.next(over.C) {
			a.hear(m)
		}
	}
	if a.failure != "" {
		return fmt.Errorf("the new process gave up: %s", a.failure)
	}
	return fmt.Errorf("the new process ended before it was ready; its own lines in the log say why: %w", err)
}

// upgradeOnce calls tableflip's Upgrade until it has really tried: right after
// Ready, and right after the end of the generation before, it may not know yet.
func upgradeOnce(ctx context.Context, h *inheritance) error {
	limit := time.NewTimer(helloLimit)
	defer limit.Stop()
	for {
		err := h.upgrader.Upgrade()
		if err == nil || err.Error() != "process is not ready yet" && err.Error() != "parent hasn't exited" {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-limit.C:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// close lets no further upgrade begin, interrupts one that has, and returns the
// one that has succeeded all the same, or nil.
func (u *upgrades) close() *attempt {
	u.mu.Lock()
	u.over = true
	u.mu.Unlock()
	u.cancel()
	_ = u.m.inherit.stop()
	u.work.Wait()
	select {
	case a := <-u.succeeded:
		return a
	default:
		return nil
	}
}

// hello is what the next generation hears of this one.
func (m *master) hello() *helloMessage {
	h := &helloMessage{Generation: m.inherit.generation(), PID: os.Getpid(), Version: version, Serving: map[string]int{}, Records: m.recorder != nil, Tickets: m.tickets(), PromptSeed: m.balancer.PromptSeed()}
	for _, pool := range m.sup.Status() {
		for _, w := range pool.Workers {
			if w.State == supervisor.Ready {
				h.Serving[w.Name] = w.PID
			}
		}
	}
	return h
}
