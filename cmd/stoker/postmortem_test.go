package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"stoker/config"
	"stoker/internal/crash"
	"stoker/supervisor"
)

// TestNoDeathWaitsForTheDisk: while a disk hangs deaths are heard at once; what
// does not fit is counted, and the rest is written when it answers again.
func TestNoDeathWaitsForTheDisk(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := &postmortem{
		store: &crash.Store{Dir: t.TempDir(), Keep: 1000, Size: 1 << 20},
		pools: func() []supervisor.PoolStatus { return []supervisor.PoolStatus{{Name: "p"}} },
		log:   hclog.NewNullLogger(), metrics: newCrashMetrics(registry),
	}
	// Another writer that does not come to an end is as good as a disk that hangs.
	lock, err := os.OpenFile(filepath.Join(p.store.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.begin()
	const deaths = deathQueue + 10
	began := time.Now()
	for i := range deaths {
		d := supervisor.Death{Pool: "p", Worker: fmt.Sprint("p-", i), Reason: "exited", Ended: time.Now()}
		p.hear(d, crash.ID(&d))
	}
	if took := time.Since(began); took > 20*time.Second { // it is a moment, or for ever
		t.Errorf("to tell of %d deaths took %v", deaths, took)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	p.end()
	<-p.done // a busy machine takes longer than the end of a master waits
	ids, err := p.store.IDs()
	lost := int(testutil.ToFloat64(p.metrics.lost))
	if err != nil || len(ids)+lost != deaths || lost == 0 || lost > 10 {
		t.Errorf("%d reports, %d lost, %v; want %d together", len(ids), lost, err, deaths)
	}
	if n := testutil.ToFloat64(p.metrics.crashes.WithLabelValues("p", "exited", "0")); n != deaths {
		t.Errorf("%v deaths counted, want %d", n, deaths)
	}
	d := supervisor.Death{Pool: "p", Worker: "late", Ended: time.Now()}
	p.hear(d, crash.ID(&d)) // of a master that has ended: neither panics nor blocks
}

// TestTheRunDirectoryLeadsToTheState, also after it has moved.
func TestTheRunDirectoryLeadsToTheState(t *testing.T) {
	run, state := t.TempDir(), t.TempDir()
	where := crashPlace{where: adminAddress{runDir: run}}
	for _, c := range []struct{ stateDir, want string }{{state, state}, {"/elsewhere", "/elsewhere"}, {run, run}, {run, run}} {
		if err := linkState(&config.Config{RunDir: run, StateDir: c.stateDir}); err != nil {
			t.Fatal(err)
		}
		got, err := where.store()
		if err != nil || got.Dir != filepath.Join(c.want, "crashes") {
			t.Errorf("state in %s is looked for in %v, %v", c.stateDir, got, err)
		}
	}
	where.stateDir = "/said"
	if got, err := where.store(); err != nil || got.Dir != "/said/crashes" {
		t.Errorf("%v, %v", got, err)
	}
}
