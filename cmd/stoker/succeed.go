package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"stoker/internal/failpoint"
	"stoker/supervisor"
)

// The beginning of a generation. A first one has nothing to prepare, and its
// Ready tells nobody.

// prepareLimit bounds the self-test, and prepareEvery paces it.
const (
	prepareLimit = 10 * time.Second
	prepareEvery = 50 * time.Millisecond
	// settleLimit bounds the adoption, which is a claim and a probe per engine.
	settleLimit = 5 * time.Second
)

// commit does all that can fail before there is no way back: an error means
// that this process must go, and that the master before goes on as if nothing
// had been tried.
func (m *master) commit(ctx context.Context) (observed []supervisor.Observed, err error) {
	if m.inherit.successor() {
		if observed, err = m.selfTest(ctx); err != nil {
			return nil, err
		}
		if m.claim, err = supervisor.ClaimEpoch(m.cfg.RunDir); err != nil {
			return nil, err
		}
		err = m.inherit.parent.send(message{Prepared: &preparedMessage{PID: os.Getpid(), Version: version, Observed: observed}})
		if err != nil {
			m.log.Debug("the master before does not listen any more", "error", err)
		}
	}
	failpoint.Hit("before-ready")
	err = m.inherit.upgrader.Ready()
	// tableflip keeps no error but its text.
	if err != nil && strings.Contains(err.Error(), syscall.EPIPE.Error()) {
		m.log.Warn("the master before died during the upgrade; this one takes its place", "pid", m.inherit.hello.PID)
		err = nil
	}
	if err != nil {
		if m.claim != nil {
			m.claim.Drop()
		}
		return nil, fmt.Errorf("take over from the running master: %w", err)
	}
	failpoint.Hit("after-ready")
	return observed, nil
}

// selfTest observes the engines. At least one of those that the running master
// serves with must answer this process too; that not all do may be their being
// busy, or dead by now.
func (m *master) selfTest(ctx context.Context) ([]supervisor.Observed, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	for {
		observed, err := m.sup.Prepare(ctx)
		if err != nil {
			return nil, fmt.Errorf("observe what runs: %w", err)
		}
		if sees(observed, m.inherit.hello.Serving) || !m.elder.draining() {
			return observed, nil
		}
		select {
		case <-time.After(prepareEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("none of the %d engines that the running master serves with answers this process", len(m.inherit.hello.Serving))
		}
	}
}

// sees says whether what serves is seen by us.
func sees(observed []supervisor.Observed, serving map[string]int) bool {
	for _, o := range observed {
		if o.Answers && serving[o.Worker] == o.PID {
			return true
		}
	}
	return len(serving) == 0
}

// takeCharge claims the engines, after commit. When it returns, those that
// serve are in the pools.
func (m *master) takeCharge(ctx context.Context, observed []supervisor.Observed) (epoch uint64, err error) {
	if err := m.held.sign(); err != nil {
		m.log.Warn("cannot write this process's number into the lock file", "error", err)
	}
	if epoch, err = m.nextEpoch(); err != nil {
		return 0, err
	}
	m.sup.SetEpoch(epoch)
	if err := m.sup.Start(ctx); err != nil {
		return epoch, err
	}
	var adopted []string
	for _, o := range observed {
		if o.Answers {
			adopted = append(adopted, o.Worker)
		}
	}
	limited, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := m.sup.Settled(limited, adopted); err != nil {
		m.log.Warn("an engine that was there is not ready yet; its requests wait", "error", err)
	}
	return epoch, nil
}

// nextEpoch takes what commit has claimed. A first generation claims nothing: there
// is nobody who would go on without it.
func (m *master) nextEpoch() (uint64, error) {
	if m.claim != nil {
		return m.claim.Take()
	}
	return supervisor.NextEpoch(m.cfg.RunDir)
}

// announce tells the generation before that this one serves.
func (m *master) announce(epoch uint64) {
	if !m.inherit.successor() {
		return
	}
	failpoint.Hit("before-mainpid")
	m.notifier.takeOver()
	failpoint.Hit("after-mainpid")
	err := m.inherit.parent.send(message{Serving: &servingMessage{
		PID: os.Getpid(), Generation: m.inherit.generation(), Version: version, Epoch: epoch,
	}})
	if err != nil {
		m.log.Debug("the master before does not listen any more", "error", err)
	}
}
