package http1

// Chunked decodes a chunked body, of a request or an answer, in place and from
// pieces cut anywhere. The zero value is ready; Reset makes it so again.
//
//	size line ──▶ data ──▶ CRLF ──▶ size line … ──▶ size 0 ──▶ trailers ──▶ done
//
// It takes what RFC 9112 7.1 allows a sender, and nothing more: one to fifteen
// hexadecimal digits and no sign or space, CRLF and no bare LF or CR.
// Extensions are dropped: nobody may act upon one that he does not know.
type Chunked struct {
	// Trailers holds the trailer fields once Done: views into memory of the
	// decoder's own, valid until Reset. What may not be a trailer is left out.
	Trailers Fields

	state    chunkState
	size     int64  // of the chunk being read, then what is left of it
	promised int64  // data of all chunks of which the size has been read
	line     int    // length of the size line so far
	excess   int    // framing beyond what short chunks justify
	trailers []byte // the section so far, with all its line ends
}

type chunkState uint8

const (
	chunkSize    chunkState = iota // digits
	chunkExt                       // from ';' to CR
	chunkSizeLF                    // LF of the size line
	chunkData                      //
	chunkDataCR                    // CR after the data
	chunkDataLF                    // LF after the data
	chunkTrailer                   // lines up to an empty one
	chunkDone                      //
)

const (
	// maxChunkDigits keeps a size below 2⁶⁰.
	maxChunkDigits = 15
	// maxChunkLine bounds a size line with its extension; signatures per
	// chunk, the longest in use, need 100 bytes.
	maxChunkLine = 1 << 10
	// maxChunkExcess is how many bytes of framing a body may hold beyond 16 per
	// chunk and 2 per byte of data. Without it, extensions make a peer read a
	// gigabyte for a kilobyte of body (CVE-2023-39326).
	maxChunkExcess = 16 << 10
	// maxTrailers bounds the trailer section.
	maxTrailers = 16 << 10
)

// Reset makes d ready for another body, keeping its memory.
func (d *Chunked) Reset() {
	*d = Chunked{Trailers: d.Trailers[:0], trailers: d.trailers[:0]}
}

// Done says whether the body, trailers included, has been read whole.
func (d *Chunked) Done() bool { return d.state == chunkDone }

// Decode takes the next bytes of the stream. It gathers the body's bytes at
// the start of p, overwriting the framing between them, and returns them and
// how much of p it has used: all of it until Done, after which the rest
// belongs to the next message. On an error, which is a SyntaxError and final,
// body holds what was decoded before it.
func (d *Chunked) Decode(p []byte) (body []byte, used int, err error) {
	out := 0
	for used < len(p) && d.state != chunkDone {
		if d.state == chunkData {
			n := int(min(d.size, int64(len(p)-used)))
			if out != used {
				copy(p[out:], p[used:used+n])
			}
			out, used, d.size = out+n, used+n, d.size-int64(n)
			if d.size == 0 {
				d.state = chunkDataCR
			}
			continue
		}
		c := p[used]
		used++
		if err := d.step(c); err != nil {
			return p[:out], used, err
		}
	}
	return p[:out], used, nil
}

// Promised is how many bytes the body has at least, by the sizes that have been read.
func (d *Chunked) Promised() int64 { return d.promised }

// Check says of p, the beginning of the stream, what is wrong with it, whether it
// is all of it, and how much it promises. It leaves p as it is; d must be as new,
// and is so afterwards.
func (d *Chunked) Check(p []byte) (whole bool, promised int64, err error) {
	for len(p) > 0 && err == nil && d.state != chunkDone {
		if d.state != chunkData {
			err, p = d.step(p[0]), p[1:]
			continue
		}
		n := min(d.size, int64(len(p)))
		if d.size, p = d.size-n, p[n:]; d.size == 0 {
			d.state = chunkDataCR
		}
	}
	whole, promised = d.Done(), d.promised
	d.Reset()
	return whole, promised, err
}

// step takes one byte of framing.
func (d *Chunked) step(c byte) error {
	switch d.state {
	case chunkSize:
		return d.stepSize(c)
	case chunkExt:
		return d.stepExt(c)
	case chunkSizeLF:
		return d.endSizeLine(c)
	case chunkDataCR:
		if c != '\r' {
			return errChunkEnd
		}
		d.state = chunkDataLF
	case chunkDataLF:
		if c != '\n' {
			return errChunkEnd
		}
		d.state, d.size, d.line = chunkSize, 0, 0
	case chunkTrailer:
		return d.stepTrailer(c)
	case chunkData, chunkDone: // Decode sees to these
	}
	return nil
}

func (d *Chunked) stepSize(c byte) error {
	switch {
	case bytesAre[c]&isHex != 0:
		if d.line == maxChunkDigits {
			return errChunkHuge
		}
		d.size = d.size<<4 | int64(unhex(c))
		d.line++
	case d.line == 0:
		return errChunkSize
	case c == ';':
		d.state = chunkExt
		d.line++
	case c == '\r':
		d.state = chunkSizeLF
	default:
		return errChunkSize
	}
	return nil
}

func (d *Chunked) stepExt(c byte) error {
	if c == '\r' {
		d.state = chunkSizeLF
		return nil
	}
	if bytesAre[c]&isValue == 0 {
		return errChunkExt
	}
	if d.line++; d.line > maxChunkLine {
		return errChunkLine
	}
	return nil
}

func (d *Chunked) endSizeLine(c byte) error {
	if c != '\n' {
		return errChunkSize
	}
	d.excess += d.line + len("\r\n\r\n") - 16
	if d.size < maxChunkExcess { // a larger one pays for everything before it
		d.excess -= 2 * int(d.size)
	} else {
		d.excess = 0
	}
	if d.excess = max(d.excess, 0); d.excess > maxChunkExcess {
		return errChunkOverhead
	}
	d.promised += d.size // no more than one of them has not come
	d.state = chunkData
	if d.size == 0 {
		d.state = chunkTrailer
	}
	return nil
}

// stepTrailer gathers the section and parses it at its end, so that its fields
// can be views of one piece. Nearly always it is just CRLF.
func (d *Chunked) stepTrailer(c byte) error {
	if len(d.trailers) == maxTrailers {
		return errTrailerSize
	}
	d.trailers = append(d.trailers, c)
	if c != '\n' {
		return nil
	}
	n := len(d.trailers)
	if n < 2 || d.trailers[n-2] != '\r' {
		return errBareLF
	}
	if n > 2 && d.trailers[n-3] != '\n' {
		return nil
	}
	fields, err := parseFields(d.Trailers[:0], d.trailers[:n-2], MaxFields)
	if err != nil {
		return err
	}
	d.Trailers, d.state = stripTrailers(fields), chunkDone
	return nil
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// ChunkHead and ChunkTail are how many bytes FrameChunk needs free before and
// after the data.
const (
	ChunkHead = 10 // eight digits are 4 GiB
	ChunkTail = 2
)

// FrameChunk makes a chunk of the n > 0 bytes that were put at buf[ChunkHead:],
// without moving them, and returns the chunk, a part of buf.
func FrameChunk(buf []byte, n int) []byte {
	const digits = "0123456789abcdef"
	start := ChunkHead - 2
	copy(buf[start:], "\r\n")
	for size := n; size > 0; size >>= 4 {
		start--
		buf[start] = digits[size&0xf]
	}
	end := ChunkHead + n
	return append(buf[start:end], "\r\n"...)
}

// AppendLastChunk writes the end of a chunked body, with its trailers.
func AppendLastChunk(dst []byte, trailers Fields) []byte {
	dst = append(dst, "0\r\n"...)
	dst = appendFields(dst, trailers)
	return append(dst, "\r\n"...)
}
