package door

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// scripted is a listener whose Accept fails as told, then blocks until Close.
type scripted struct {
	errs   []error
	calls  int
	closed chan struct{}
}

func (s *scripted) Accept() (net.Conn, error) {
	s.calls++
	if s.calls <= len(s.errs) {
		if err := s.errs[s.calls-1]; err != nil {
			return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
		}
		return nil, nil
	}
	<-s.closed
	return nil, net.ErrClosed
}
func (s *scripted) Close() error   { close(s.closed); return nil }
func (s *scripted) Addr() net.Addr { return &net.UnixAddr{Name: "scripted", Net: "unix"} }

func repeat(err error, times int) []error {
	errs := make([]error, times)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// TestAcceptWaitsOutAShortage: no hot loop, one line in the log, service again.
func TestAcceptWaitsOutAShortage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		s := &scripted{errs: append(repeat(syscall.EMFILE, 15), nil), closed: make(chan struct{})}
		l := New(hclog.New(&hclog.LoggerOptions{Output: &logged})).Add(s)
		began := time.Now()
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		// 5, 10, … 640 ms and then seven whole seconds.
		if took := time.Since(began); took != 1275*time.Millisecond+7*time.Second {
			t.Errorf("15 failures took %v", took)
		}
		if n := strings.Count(logged.String(), "\n"); n != 1 || !strings.Contains(logged.String(), "LimitNOFILE") {
			t.Errorf("logged %d lines: %s", n, logged.String())
		}
	})
}

func TestAcceptErrors(t *testing.T) {
	for _, c := range []struct {
		err   error
		fatal bool
	}{
		{syscall.EMFILE, false},
		{syscall.ENFILE, false},
		{syscall.ENOBUFS, false},
		{syscall.ENOMEM, false},
		{syscall.ECONNABORTED, false},
		{syscall.EBADF, true},
		{syscall.EINVAL, true}, // shut by somebody else while the door is open
	} {
		synctest.Test(t, func(t *testing.T) {
			l := New(hclog.NewNullLogger()).Add(&scripted{errs: []error{c.err, nil}, closed: make(chan struct{})})
			if _, err := l.Accept(); (err != nil) != c.fatal {
				t.Errorf("after %v Accept returned %v", c.err, err)
			}
		})
	}
}

// TestCloseEndsAWaitingAccept: a door that closes during a shortage of
// descriptors gives up its queue when the limit is over, and Accept with it.
func TestCloseEndsAWaitingAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{errs: repeat(syscall.ENFILE, 1000), closed: make(chan struct{})}
		d := New(hclog.NewNullLogger())
		l := d.Add(s)
		failed := make(chan error)
		go func() {
			_, err := l.Accept()
			failed <- err
		}()
		time.Sleep(10 * time.Second)
		began := time.Now()
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > emptying {
			t.Errorf("close took %v", took)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returned %v", err)
		}
	})
}
