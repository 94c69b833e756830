package supervisor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
)

func TestServer(t *testing.T) {
	type sight struct {
		at    time.Duration
		state ServerState
		ready bool
	}
	cases := []struct {
		name string
		down bool
		sick func(at time.Duration) error
		kick time.Duration
		want []sight
	}{
		{
			name: "well from the start",
			sick: func(time.Duration) error { return nil },
			want: []sight{{0, ServerReady, true}, {time.Hour, ServerReady, true}},
		},
		{
			name: "comes, goes, comes back",
			sick: func(at time.Duration) error {
				if at < 300*time.Millisecond || at > time.Minute && at < 2*time.Minute {
					return errors.New("sick")
				}
				return nil
			},
			want: []sight{
				{250 * time.Millisecond, ServerUnhealthy, false},
				{2500 * time.Millisecond, ServerReady, true},
				{63 * time.Second, ServerReady, true},
				{65 * time.Second, ServerUnhealthy, false},
				{121 * time.Second, ServerReady, true},
			},
		},
		{
			name: "refused: probed at once",
			sick: func(at time.Duration) error {
				if at > 10500*time.Millisecond && at < 10700*time.Millisecond {
					return errRefused
				}
				return nil
			},
			kick: 10600 * time.Millisecond,
			want: []sight{{10500 * time.Millisecond, ServerReady, true}, {10650 * time.Millisecond, ServerUnhealthy, false}, {13 * time.Second, ServerReady, true}},
		},
		{
			name: "down",
			down: true,
			sick: func(time.Duration) error { return nil },
			want: []sight{{0, ServerDown, false}, {time.Hour, ServerDown, false}},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := config.DefaultPool("p")
				m, began := newFakeMember(), time.Now()
				s := newServer(&p, config.Server{Address: "10.0.0.1:80", Name: "a", Weight: 1, Down: c.down}, m, hclog.NewNullLogger(), func(string, string) {})
				var probes atomic.Int64
				s.checks.usual = func(context.Context) error {
					probes.Add(1)
					return c.sick(time.Since(began))
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.run(ctx)
				}()
				if c.kick > 0 {
					time.AfterFunc(c.kick, func() { m.SetReady(false); m.kick <- struct{}{} })
				}
				for _, want := range c.want {
					time.Sleep(want.at - time.Since(began))
					synctest.Wait()
					if got := s.State(); got != want.state || m.isReady() != want.ready {
						t.Errorf("after %s: %s, in the pool %t; want %s, %t", want.at, got, m.isReady(), want.state, want.ready)
					}
				}
				cancel()
				<-done
				if c.down && probes.Load() > 0 {
					t.Error("probed, though down")
				}
			})
		})
	}
}

// TestSilentServer: one whose probes are good and that gives no token is taken
// out, and let in again only by a canary that is answered.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := config.DefaultPool("p")
		p.Health.StallTimeout, p.Health.Canary = config.Duration(5*time.Second), config.Canary{Path: "/v1/completions", Timeout: config.Duration(4 * time.Second)}
		m, began := newFakeMember(), time.Now()
		m.requests(2)
		s := newServer(&p, config.Server{Address: "10.0.0.1:80", Name: "a", Weight: 1}, m, hclog.NewNullLogger(), func(string, string) {})
		s.checks.usual = func(context.Context) error { return nil }
		s.checks.canary = func(ctx context.Context) error {
			if time.Since(began) > time.Minute {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.run(ctx)
		}()
		for _, want := range []struct {
			at    time.Duration
			state ServerState
		}{{6 * time.Second, ServerReady}, {10 * time.Second, ServerUnhealthy}, {59 * time.Second, ServerUnhealthy}, {70 * time.Second, ServerReady}} {
			time.Sleep(want.at - time.Since(began))
			synctest.Wait()
			if got := s.State(); got != want.state || m.isReady() != (want.state == ServerReady) {
				t.Errorf("after %s: %s, in the pool %t; want %s", want.at, got, m.isReady(), want.state)
			}
		}
		cancel()
		<-done
	})
}
