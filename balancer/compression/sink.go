package compression

import (
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// Sink compresses one answer's body on its way. After End or Break only Name
// and the counts may be asked for, and Free called.
type Sink struct {
	below   exchange.Sink
	of      *Compressor
	coding  *coding
	encoder encoder

	// live: the body's length is not known, and who writes it may pause: what
	// there is then goes out. A sized body comes as fast as it can.
	live bool
	held bool // the encoder has something that is not written
	// in and out are bytes of the body, before and after.
	in, out int64
}

var _ exchange.Sink = (*Sink)(nil)

func (s *Sink) begin(below exchange.Sink, length int64) {
	s.below, s.live, s.held, s.in, s.out = below, length < 0, false, 0, 0
	s.encoder.Reset(output{s})
}

// Free gives s back, and returns the sink below. Nobody may use s any more.
func (s *Sink) Free() exchange.Sink {
	below := s.below
	s.encoder.Reset(nil)
	s.of.atWork.Add(-1)
	s.below, s.of = nil, nil
	s.coding.free.Put(s)
	return below
}

// Name of the content coding.
func (s *Sink) Name() string { return s.coding.name }

// In is how long the body was as it came.
func (s *Sink) In() int64 { return s.in }

// Out is how much of it was written below.
func (s *Sink) Out() int64 { return s.out }

// output is what the encoder writes to.
type output struct{ s *Sink }

func (o output) Write(p []byte) (int, error) {
	n, err := o.s.below.Write(p)
	o.s.out += int64(n)
	return n, err
}

// Interim implements exchange.Sink.
func (s *Sink) Interim(status int, fields http1.Fields) error { return s.below.Interim(status, fields) }

// Head implements exchange.Sink.
func (s *Sink) Head(r *http1.Response, length int64) error { return s.below.Head(r, length) }

// Write implements exchange.Sink.
func (s *Sink) Write(p []byte) (int, error) {
	s.held = s.held || len(p) > 0
	n, err := s.encoder.Write(p)
	s.in += int64(n)
	return n, err
}

// Flush implements exchange.Sink.
func (s *Sink) Flush() error {
	if s.live && s.held {
		if err := s.encoder.Flush(); err != nil {
			return err
		}
		s.held = false
	}
	return s.below.Flush()
}

// Splice copies: what is compressed has to be seen.
func (s *Sink) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if s.live {
		return rawconn.Copy(flushing{s}, src, n)
	}
	return rawconn.Copy(s, src, n)
}

// flushing writes through.
type flushing struct{ s *Sink }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.s.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.s.Flush()
}

// End implements exchange.Sink.
func (s *Sink) End(trailers http1.Fields) error {
	if err := s.encoder.Close(); err != nil {
		return err
	}
	return s.below.End(trailers)
}

// Break implements exchange.Sink. The compressed stream stays without its end.
func (s *Sink) Break(cause error) { s.below.Break(cause) }
