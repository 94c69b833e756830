package supervisor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/upstream"
)

// fakeMember is a place in a pool with requests that the test counts by hand.
type fakeMember struct {
	load    *upstream.EngineLoad
	onReady func(bool)
	kick    chan struct{}

	mu        sync.Mutex
	ready     bool
	expected  bool
	cuts      int
	deaths    int
	inFlight  int
	idle      chan struct{}
	moved     func() uint64
	moves     int
	doubted   bool
	doubts    []string
	born      time.Time
	elsewhere int

	questions, vouched uint64
	answers            []string // when somebody has vouched
}

func (m *fakeMember) question() {
	m.mu.Lock()
	m.questions++
	m.mu.Unlock()
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

func (m *fakeMember) Questions() (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.questions, m.questions > m.vouched
}

func (m *fakeMember) Vouch(asked uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if asked > m.vouched {
		m.vouched = asked
		m.answers = append(m.answers, fmt.Sprintf("%d %s", asked, time.Since(m.born)))
	}
}

// vouchers says who has vouched for it, and when.
func (m *fakeMember) vouchers() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.answers, ", ")
}

func newFakeMember() *fakeMember {
	return &fakeMember{kick: make(chan struct{}, 1), idle: make(chan struct{}), born: time.Now()}
}

func (m *fakeMember) ResetPeer(upstream.Peer) {}

func (m *fakeMember) Dismiss() {}

func (m *fakeMember) Move() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moves++
	return 0
}

func (m *fakeMember) Died(time.Time) {
	m.mu.Lock()
	m.deaths++
	m.mu.Unlock()
}

func (m *fakeMember) SetExpected(expected bool) {
	m.mu.Lock()
	m.expected = expected
	m.mu.Unlock()
}

func (m *fakeMember) isExpected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expected
}

func (m *fakeMember) Cut() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts++
	return m.inFlight
}

func (m *fakeMember) Breaker() upstream.BreakerState { return upstream.BreakerClosed }

func (m *fakeMember) SetReady(ready bool) {
	m.mu.Lock()
	if m.ready != ready {
		m.ready, m.vouched = ready, m.questions
	}
	m.mu.Unlock()
	if m.onReady != nil {
		m.onReady(ready)
	}
}

func (m *fakeMember) Doubt(doubted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doubted != doubted {
		m.doubted = doubted
		m.doubts = append(m.doubts, fmt.Sprintf("%t %s", doubted, time.Since(m.born)))
	}
}

// history of the doubts.
func (m *fakeMember) history() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.doubts, ", ")
}

func (m *fakeMember) SetLoad(l *upstream.EngineLoad) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load = l
}

func (m *fakeMember) Load() upstream.EngineLoad {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.load == nil {
		return upstream.EngineLoad{}
	}
	return *m.load
}

func (m *fakeMember) Elsewhere() int { return m.elsewhere }

func (m *fakeMember) isReady() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

func (m *fakeMember) InFlight() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inFlight
}

// requests sets how many requests are in flight.
func (m *fakeMember) requests(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight = n
	close(m.idle)
	m.idle = make(chan struct{})
}

func (m *fakeMember) WaitIdle(ctx context.Context) error {
	for {
		m.mu.Lock()
		n, changed := m.inFlight, m.idle
		m.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *fakeMember) Progress() uint64 {
	if m.moved == nil {
		return 0
	}
	return m.moved()
}
func (m *fakeMember) Kick() <-chan struct{} { return m.kick }

// life is one worker under test.
type life struct {
	t       *testing.T
	w       *worker
	keepers *fakeKeepers
	place   *fakePlace
	member  *fakeMember
	began   time.Time

	mu   sync.Mutex
	path []string
}
