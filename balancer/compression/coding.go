package compression

import (
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Names of the content codings that we have (RFC 9110 8.4.1, RFC 8878).
const (
	Gzip = "gzip"
	Zstd = "zstd"
)

// encoder writes one compressed stream at a time.
type encoder interface {
	io.Writer
	// Flush writes all that was taken so far, so that it can be read.
	Flush() error
	// Close ends the stream.
	Close() error
	// Reset begins another one, to w.
	Reset(w io.Writer)
}

// coding is a way to compress, with the sinks that do it and are free.
type coding struct {
	name string
	free sync.Pool // of *Sink
}

func newCoding(name string, level int) *coding {
	c := &coding{name: name}
	c.free.New = func() any { return &Sink{coding: c, encoder: newEncoder(name, level)} }
	return c
}

// zstdWindow is how far back it looks: 128 KiB are far enough for what an engine
// answers, and larger ones cost memory for each answer.
const zstdWindow = 128 << 10

// newEncoder cannot fail: the options are ours.
func newEncoder(name string, level int) encoder {
	if name == Gzip {
		w, err := gzip.NewWriterLevel(nil, level)
		if err != nil {
			panic("compression: gzip level " + err.Error())
		}
		return w
	}
	speed := zstd.SpeedDefault // the better ones take four megabytes each
	if level < 3 {
		speed = zstd.SpeedFastest
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderConcurrency(1), // no goroutines
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("compression: zstd " + err.Error())
	}
	return w
}

// is says whether a client means this one.
func (c *coding) is(name string) bool {
	return strings.EqualFold(name, c.name) || c.name == Gzip && strings.EqualFold(name, "x-gzip")
}

// take returns a free sink; nil: enough are at work.
func (c *coding) take(of *Compressor) *Sink {
	if of.atWork.Add(1) > of.most {
		of.atWork.Add(-1)
		return nil
	}
	s := c.free.Get().(*Sink)
	s.of = of
	return s
}
