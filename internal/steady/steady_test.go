package steady

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWithLimitTriesLongerOnes(t *testing.T) {
	var limits []time.Duration
	cleaned := 0
	WithLimit(t, time.Second, func(tb *Trial, limit time.Duration) {
		if cleaned != len(limits) || tb.Context().Err() != nil || tb.Failed() {
			t.Errorf("%d of %d tries cleaned up, %v, failed: %v", cleaned, len(limits), tb.Context().Err(), tb.Failed())
		}
		tb.Cleanup(func() {
			if tb.Context().Err() == nil {
				t.Error("the context lives longer than the try")
			}
			cleaned++
		})
		limits = append(limits, limit)
		switch len(limits) {
		case 1:
			tb.Fatal("not yet")
		case 2:
			tb.Error("nor now")
		}
	})
	if len(limits) != 3 || limits[0] != time.Second || limits[2] != 16*time.Second || cleaned != 3 {
		t.Errorf("limits %v, %d cleaned up", limits, cleaned)
	}
}

// said is a TB that only notes that it has failed.
type said struct {
	testing.TB
	failed string
}

func (s *said) Errorf(string, ...any) { s.failed = "failed" }
func (s *said) Logf(string, ...any)   {}

func TestWithLimitFailsAtLast(t *testing.T) {
	for name, fail := range map[string]func(t *Trial){
		"Error":            func(t *Trial) { t.Error("x") },
		"Fatalf":           func(t *Trial) { t.Fatalf("%d", 1) },
		"FailNow":          func(t *Trial) { t.FailNow() },
		"Fatal in cleanup": func(t *Trial) { t.Cleanup(func() { t.Fatal("x") }) },
	} {
		n := 0
		tb := &said{TB: t}
		WithLimit(tb, time.Millisecond, func(t *Trial, _ time.Duration) { n++; fail(t) })
		if n != tries || tb.failed == "" {
			t.Errorf("%s: %d tries, failed: %q", name, n, tb.failed)
		}
	}
}

func TestReservedPortsAreNobodyElses(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "::"} {
		t.Run(host, func(t *testing.T) {
			if probe, err := net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
				t.Skip(err)
			} else {
				_ = probe.Close()
			}
			address := Reserve(t, host)
			for range 2 { // and once more, behind what is left of the first
				l, err := net.Listen("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if c, err := net.Dial("tcp", address); err != nil {
					t.Error(err)
				} else {
					_ = c.Close()
				}
				_ = l.Close()
				if c, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v, %v", c, err)
				}
			}
		})
	}
}

// Who asks for any port of a range in which there is that one alone gets none.
func TestTheKernelGivesNoReservedPortAway(t *testing.T) {
	address := Reserve(t, "127.0.0.1")
	port := netip.MustParseAddrPort(address).Port()
	var unable error
	ask := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unable = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, int(port)<<16|int(port))
		})
	}}
	l, err := ask.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if unable != nil {
		t.Skipf("a kernel before 6.3: %v", unable)
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v, %v", l, err)
	}
}
