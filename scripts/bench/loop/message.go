package loop

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// head is as much of a request's or an answer's head as matters here.
type head struct {
	line    []byte // the first
	length  int    // -1: none was declared
	chunked bool
	closes  bool
	size    int // of the head in bytes, with its empty line
}

var (
	endOfHead  = []byte("\r\n\r\n")
	errTooLong = errors.New("a head of more than 16 KiB")
)

// parseHead returns ok = false when the head is not whole yet.
func parseHead(p []byte) (h head, ok bool, err error) {
	end := bytes.Index(p, endOfHead)
	if end < 0 {
		if len(p) > 16<<10 {
			err = errTooLong
		}
		return h, false, err
	}
	h.length, h.size = -1, end+len(endOfHead)
	line, rest, _ := bytes.Cut(p[:end], []byte("\r\n"))
	h.line = line
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		switch len(line) - len(bytes.TrimLeft(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")) {
		case len("Content-Length"):
			if v, is := field(line, "content-length"); is {
				if h.length, err = strconv.Atoi(string(v)); err != nil {
					return h, false, fmt.Errorf("content-length: %w", err)
				}
			}
		case len("Transfer-Encoding"):
			if v, is := field(line, "transfer-encoding"); is {
				h.chunked = bytes.EqualFold(v, []byte("chunked"))
			}
		case len("Connection"):
			if v, is := field(line, "connection"); is {
				h.closes = bytes.EqualFold(v, []byte("close"))
			}
		}
	}
	return h, true, nil
}

func field(line []byte, name string) (value []byte, ok bool) {
	n, v, found := bytes.Cut(line, []byte(":"))
	if !found || !bytes.EqualFold(n, []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(v), true
}

// dechunker takes chunked framing apart as bytes arrive.
type dechunker struct {
	state chunkState
	left  int // of the chunk
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExtension
	inData
	afterData // CRLF
	inLast    // the lines after the last chunk; at the start of one
	inTrailer
	chunksDone
)

var errChunk = errors.New("not a chunk")

// next returns the first piece of payload in p, and what of p is left.
func (d *dechunker) next(p []byte) (payload, rest []byte, err error) {
	for len(p) > 0 && d.state != chunksDone {
		if d.state == inData {
			n := min(d.left, len(p))
			if d.left -= n; d.left == 0 {
				d.state = afterData
			}
			return p[:n], p[n:], nil
		}
		if err := d.step(p[0]); err != nil {
			return nil, nil, err
		}
		p = p[1:]
	}
	return nil, p, nil
}

func (d *dechunker) step(b byte) error {
	switch d.state {
	case inSize:
		switch {
		case b == '\r' || b == ';':
			d.state = inExtension
		case b >= '0' && b <= '9':
			d.left = d.left<<4 | int(b-'0')
		case b|0x20 >= 'a' && b|0x20 <= 'f':
			d.left = d.left<<4 | int(b|0x20-'a'+10)
		default:
			return errChunk
		}
	case inExtension:
		if b == '\n' {
			d.state = inData
			if d.left == 0 {
				d.state = inLast
			}
		}
	case afterData:
		if b == '\n' {
			d.state = inSize
		}
	case inLast:
		if b == '\n' {
			d.state = chunksDone
		} else if b != '\r' {
			d.state = inTrailer
		}
	case inTrailer:
		if b == '\n' {
			d.state = inLast
		}
	case inData, chunksDone:
	}
	return nil
}
