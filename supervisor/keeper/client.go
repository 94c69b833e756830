package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Client is a master's side of one keeper: a connection, observing until Claim
// succeeds (Spawn's has claimed already). All methods may be called from several
// goroutines.
type Client struct {
	conn    net.Conn
	hello   frame // as received, with the first state
	version int   // that is spoken
	updates chan struct{}
	lost    chan struct{}
	read    sync.WaitGroup

	writing sync.Mutex // one frame at a time

	mu      sync.Mutex
	state   State
	nextID  uint64
	waiting map[uint64]chan frame
}

// dial takes over conn and waits for the keeper's hello, which is not believed yet.
func dial(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn: conn, updates: make(chan struct{}, 1), lost: make(chan struct{}),
		waiting: make(map[uint64]chan frame),
	}
	frames := newFrameReader(conn, maxAnswer)
	undo := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // the read fails then
	f, err := frames.next()
	if !undo() && err == nil {
		err = ctx.Err()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("keeper said no hello: %w", context.Cause(ctx))
	case err != nil:
		err = fmt.Errorf("%w before its hello: %w", ErrLost, err)
	case f.Op != opHello:
		err = fmt.Errorf("%w: %.40q instead of a hello", ErrForeign, f.Op)
	case f.Error != "":
		err = f.refusal()
	case f.State == nil:
		err = fmt.Errorf("%w: a hello without a state", ErrForeign)
	default:
		c.version, err = commonVersion(f.Min, f.Max)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.hello, c.state = f, *f.State
	c.read.Go(func() { c.receive(frames) })
	return c, nil
}

// greet answers the hello, once it is believed.
func (c *Client) greet(ctx context.Context) error {
	_, err := c.call(ctx, frame{Op: opHello, Min: minVersion, Max: maxVersion})
	return err
}

// receive takes what the keeper sends until the connection ends.
func (c *Client) receive(frames *frameReader) {
	defer close(c.lost)
	defer c.conn.Close() //nolint:errcheck // it has ended
	for {
		f, err := frames.next()
		if err != nil {
			return
		}
		c.take(f)
	}
}

func (c *Client) take(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.State != nil && f.State.Seq > c.state.Seq {
		c.state = *f.State
		select {
		case c.updates <- struct{}{}:
		default:
		}
	}
	if f.Op == opReply {
		if w, ok := c.waiting[f.ID]; ok {
			delete(c.waiting, f.ID)
			w <- f
		}
	}
}

// State is the latest known. Right after Spawn its phase may still be Starting.
// What it points to is shared and not to be changed.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Versions is the range of the protocol's versions that the keeper speaks.
func (c *Client) Versions() (lowest, highest int) { return c.hello.Min, c.hello.Max }

// Updates has a value when something changed since it was last received from: read State.
func (c *Client) Updates() <-chan struct{} { return c.updates }

// Lost is closed when the connection has ended: the keeper died, or has let go
// after an ack, or Close was called. After a loss that nobody wished, Attach
// tells what is there: ErrKeeperDead calls for EndOrphan.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Claim makes this connection the owner. Every master claims with a higher
// epoch than State().Epoch; ErrStaleEpoch says that another was first. The same
// epoch claims again after a broken connection.
func (c *Client) Claim(ctx context.Context, epoch uint64) error {
	_, err := c.call(ctx, frame{Op: opClaim, Epoch: epoch})
	return err
}

// Stop begins to end the engine's tree: sig to its group, KILL to the whole
// tree after grace. It returns when that has begun; State tells the end. A
// further Stop with a shorter grace hurries, 0 kills now; it repeats no signal
// that was sent already. There is nothing to do, and no error, when all has ended.
func (c *Client) Stop(ctx context.Context, sig syscall.Signal, grace time.Duration) error {
	_, err := c.call(ctx, frame{Op: opStop, Signal: int(sig), Grace: grace})
	return err
}

// Signal sends sig to the engine's first process alone.
func (c *Client) Signal(ctx context.Context, sig syscall.Signal) error {
	_, err := c.call(ctx, frame{Op: opSignal, Signal: int(sig)})
	return err
}

// Hold has the engine's output held back from now on, for so long at most; 0 passes
// on what is. ErrUnsupported: its keeper is older than that. See Intent.HoldOutput.
func (c *Client) Hold(ctx context.Context, limit time.Duration) error {
	_, err := c.call(ctx, frame{Op: opHold, Grace: limit})
	return err
}

// Tail is the engine's last output, stdout and stderr as they came, at most 64 KiB.
func (c *Client) Tail(ctx context.Context) ([]byte, error) {
	f, err := c.call(ctx, frame{Op: opTail})
	return f.Tail, err
}

// Ack says that the exit has been taken note of. The keeper removes its files
// and ends; when Ack returns nil it has gone, but for a moment's delay, and the
// directory is free for the next Spawn.
func (c *Client) Ack(ctx context.Context) error {
	// Taken while the keeper surely lives: its number may be another's later.
	process, noHandle := unix.PidfdOpen(c.State().KeeperPID, 0)
	if noHandle == nil {
		defer func() { _ = unix.Close(process) }()
	}
	if _, err := c.call(ctx, frame{Op: opAck}); err != nil {
		return err
	}
	select {
	case <-c.lost:
		if noHandle == nil {
			awaitExit(process)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("keeper %s has not let go: %w", c.State().Name, ctx.Err())
	}
}

// awaitExit waits until a process that has closed its connections has ended
// too: a master that ends before its keepers leaves processes behind, if only
// for a millisecond.
func awaitExit(process int) {
	deadline := time.Now().Add(settleWithin)
	for {
		left := time.Until(deadline)
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(max(left, 0).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Close lets go of the keeper, which lives on: without an owner, if this was it.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.read.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// call sends a request and waits for its reply, whose state is taken before call returns.
func (c *Client) call(ctx context.Context, f frame) (frame, error) {
	return c.request(ctx, f, nil)
}

// request is call with a descriptor beside the frame, where rights are not empty.
func (c *Client) request(ctx context.Context, f frame, rights []byte) (frame, error) {
	answer := make(chan frame, 1)
	c.mu.Lock()
	c.nextID++
	f.ID = c.nextID
	c.waiting[f.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, f.ID)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, &f, rights); err != nil {
		return frame{}, fmt.Errorf("keeper: %s: %w", f.Op, err)
	}
	select {
	case r := <-answer:
		return r, r.refusal()
	case <-ctx.Done():
		return frame{}, fmt.Errorf("keeper: %s: %w", f.Op, ctx.Err())
	case <-c.lost:
		select {
		case r := <-answer: // it came just before the end
			return r, r.refusal()
		default:
			return frame{}, fmt.Errorf("keeper: %s: %w", f.Op, ErrLost)
		}
	}
}

func (c *Client) send(ctx context.Context, f *frame, rights []byte) error {
	b, err := f.encode()
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	limit := time.Now().Add(writeWithin)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	if err := c.conn.SetWriteDeadline(limit); err != nil {
		return errors.Join(ErrLost, err)
	}
	if err := c.write(b, rights); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrShortWrite) {
			_ = c.conn.Close() // half a frame may be out: the connection is of no use
		}
		return errors.Join(ErrLost, err)
	}
	return nil
}

// write writes a frame, with its descriptor if it has one.
func (c *Client) write(b, rights []byte) error {
	if len(rights) == 0 {
		_, err := c.conn.Write(b)
		return err
	}
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a %T carries no descriptor", c.conn)
	}
	n, _, err := conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}
