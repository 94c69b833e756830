package http1

// SyntaxError says what of HTTP/1.1 the peer's bytes broke. It holds none of
// those bytes, so that it may go into any log. Who gets one has lost track of
// the connection's framing and must close it.
type SyntaxError string

func (e SyntaxError) Error() string { return string(e) }

// The errors that callers tell apart.
const (
	// ErrHeadTooLarge: a head is longer than MaxHead.
	ErrHeadTooLarge = SyntaxError("head is larger than 64 KiB")
	// ErrTooManyFields: a head or trailer section holds more than MaxFields.
	ErrTooManyFields = SyntaxError("more than 128 fields")
)

const (
	errBareLF        = SyntaxError("line ended by a bare LF")
	errNotHTTP       = SyntaxError("status line does not start with HTTP/1.1 or HTTP/1.0")
	errStatus        = SyntaxError("status is not three digits between 100 and 599")
	errReason        = SyntaxError("control character in the reason phrase")
	errFold          = SyntaxError("field line starts with white space")
	errNoColon       = SyntaxError("field line without a colon")
	errFieldName     = SyntaxError("field name is not a token")
	errFieldValue    = SyntaxError("control character in a field value")
	errLength        = SyntaxError("Content-Length is not a plain number")
	errLengths       = SyntaxError("several Content-Lengths that differ")
	errCoding        = SyntaxError("transfer coding other than one final chunked")
	errCodingOld     = SyntaxError("Transfer-Encoding in HTTP/1.0")
	errLengthCoding  = SyntaxError("Content-Length together with Transfer-Encoding")
	errInterimBody   = SyntaxError("interim answer with a body")
	errChunkSize     = SyntaxError("chunk size is not a hexadecimal number")
	errChunkHuge     = SyntaxError("chunk size is too large")
	errChunkLine     = SyntaxError("chunk line is too long")
	errChunkExt      = SyntaxError("control character in a chunk extension")
	errChunkEnd      = SyntaxError("chunk is not followed by CRLF")
	errChunkOverhead = SyntaxError("chunked body is almost all framing")
	errTrailerSize   = SyntaxError("trailer section is too large")
	errUnwritable    = SyntaxError("request holds a line break, a NUL or a space where none may be")
)
