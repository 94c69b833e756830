package keeper

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The protocol versions that this build speaks, on either side.
const (
	minVersion = 1
	maxVersion = 2
	// logVersion is the first with the op log.
	logVersion = 2
)

// Bounds of one frame, by who reads it. A client's requests are small, and a
// keeper's memory is too; a tail of 64 KiB is 88 KiB in base64.
const (
	maxRequest = 4 << 10
	maxAnswer  = 1 << 20
)

// The ops.
const (
	opHello  = "hello"
	opState  = "state"
	opReply  = "reply"
	opClaim  = "claim"
	opStop   = "stop"
	opSignal = "signal"
	opTail   = "tail"
	opAck    = "ack"
	opLog    = "log"
	opHold   = "hold"
)

// frame is every frame, both ways; doc.go says which fields belong to which op.
type frame struct {
	Op          string        `json:"op"`
	ID          uint64        `json:"id,omitempty"`
	Min         int           `json:"min,omitempty"`
	Max         int           `json:"max,omitempty"`
	KeeperStart uint64        `json:"keeper_start,omitempty"`
	State       *State        `json:"state,omitempty"`
	Epoch       uint64        `json:"epoch,omitempty"`
	Signal      int           `json:"signal,omitempty"`
	Grace       time.Duration `json:"grace,omitempty"`
	Tail        []byte        `json:"tail,omitempty"`
	Error       string        `json:"error,omitempty"`
	Message     string        `json:"message,omitempty"`
}

// codes are the errors that cross the wire. Their names are part of the protocol.
var codes = []struct {
	code string
	err  error
}{
	{"version", ErrVersion},
	{"unknown_op", ErrUnsupported},
	{"stale_epoch", ErrStaleEpoch},
	{"not_owner", ErrNotOwner},
	{"not_running", ErrNotRunning},
	{"not_ended", ErrNotEnded},
	{"bad_signal", errBadSignal},
	{"bad_descriptor", errDescriptor},
	{"bad_frame", errBadFrame},
	{"busy", errTooMany},
}

var (
	errBadFrame  = errors.New("not a frame")
	errBadSignal = errors.New("not a signal")
	errTooMany   = errors.New("too many connections")
)

// refuse puts err into a reply.
func (f *frame) refuse(err error) {
	f.Error, f.Message = "failed", err.Error()
	for _, c := range codes {
		if errors.Is(err, c.err) {
			f.Error = c.code
		}
	}
}

// refusal is the error that a reply carries, nil if none.
func (f *frame) refusal() error {
	if f.Error == "" {
		return nil
	}
	for _, c := range codes {
		if c.code == f.Error {
			return fmt.Errorf("%w (keeper: %s)", c.err, f.Message)
		}
	}
	return fmt.Errorf("keeper: %s: %s", f.Error, f.Message)
}

// encode is f as a line.
func (f *frame) encode() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode frame %s: %w", f.Op, err)
	}
	return append(b, '\n'), nil
}

// frameReader takes frames off a connection and holds at most one of them.
type frameReader struct {
	r    *bufio.Reader
	max  int
	line []byte
	end  uint64 // how many bytes of the connection the frames so far have taken
}

func newFrameReader(r io.Reader, limit int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 4<<10), max: limit}
}

// next returns io.EOF at a clean end, errBadFrame for what cannot be a frame;
// the connection is of no use after either.
func (r *frameReader) next() (frame, error) {
	r.line = r.line[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		r.end += uint64(len(part))
		if len(r.line)+len(part) > r.max {
			return frame{}, fmt.Errorf("%w: longer than %d bytes", errBadFrame, r.max)
		}
		r.line = append(r.line, part...)
		if err == nil {
			break
		}
		if errors.Is(err, io.EOF) && len(r.line) > 0 {
			return frame{}, io.ErrUnexpectedEOF
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return frame{}, err
		}
	}
	var f frame
	if err := json.Unmarshal(r.line, &f); err != nil {
		return frame{}, fmt.Errorf("%w: %w", errBadFrame, err)
	}
	return f, nil
}

// commonVersion is the highest that both ranges hold.
func commonVersion(low, high int) (int, error) {
	v := min(high, maxVersion)
	if v < max(low, minVersion) {
		return 0, fmt.Errorf("%w: theirs are %d to %d, ours %d to %d", ErrVersion, low, high, minVersion, maxVersion)
	}
	return v, nil
}
