package http1

import "net/http"

// SyntaxError says what of HTTP/1.1 the peer's bytes broke. It holds none of
// those bytes, so that it may go into any log. Who gets one has lost track of
// the connection's framing and must close it.
type SyntaxError string

func (e SyntaxError) Error() string { return string(e) }

// The errors that callers tell apart.
const (
	// ErrHeadTooLarge: a head is longer than MaxHead.
	ErrHeadTooLarge = SyntaxError("head is larger than 64 KiB")
	// ErrTooManyFields: a section holds more than MaxFields, or a request's
	// head more than MaxRequestFields.
	ErrTooManyFields = SyntaxError("too many fields")
	// ErrEmptyLines: more than the one empty line that may come before a request.
	ErrEmptyLines = SyntaxError("more than one empty line before the request")
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
	errCodingUnknown = SyntaxError("transfer coding before the final chunked")
	errLengthTwice   = SyntaxError("several Content-Lengths")
	errLengthDiffers = SyntaxError("Content-Length is not the body's")
	errLineSize      = SyntaxError("request line is larger than 16 KiB")
	errSectionSize   = SyntaxError("fields are larger than 16 KiB")
	errLine          = SyntaxError("request line is not METHOD TARGET VERSION with single spaces")
	errMethodToken   = SyntaxError("method is not a token")
	errVersion       = SyntaxError("version is not HTTP/1.1 or HTTP/1.0")
	errTargetChar    = SyntaxError("target holds a control character or a fragment")
	errTargetForm    = SyntaxError("target is neither a path nor an http URL")
	errHostMissing   = SyntaxError("no Host")
	errHosts         = SyntaxError("several Hosts")
	errHost          = SyntaxError("Host is not a host with an optional port")
	errHostDiffers   = SyntaxError("target and Host name different hosts")
	errExpectation   = SyntaxError("expectation other than 100-continue")
	errInterimBody   = SyntaxError("interim answer with a body")
	errChunkSize     = SyntaxError("chunk size is not a hexadecimal number")
	errChunkHuge     = SyntaxError("chunk size is too large")
	errChunkLine     = SyntaxError("chunk line is too long")
	errChunkExt      = SyntaxError("control character in a chunk extension")
	errChunkEnd      = SyntaxError("chunk is not followed by CRLF")
	errChunkOverhead = SyntaxError("chunked body is almost all framing")
	errTrailerSize   = SyntaxError("trailer section is too large")
	errUnwritable    = SyntaxError("request holds a line break, a NUL or a space where none may be")

	errUnwritableAnswer = SyntaxError("answer holds a line break or a NUL where none may be, or no status")
)

// Status is what a server answers to a request that broke HTTP like this:
// RFC 9110's own status where it has one, else 400.
func (e SyntaxError) Status() int {
	switch string(e) { // as a string: nearly all are 400, and need no case of their own
	case string(errLineSize):
		return http.StatusRequestURITooLong
	case string(errSectionSize), string(ErrTooManyFields), string(ErrHeadTooLarge):
		return http.StatusRequestHeaderFieldsTooLarge
	case string(errVersion):
		return http.StatusHTTPVersionNotSupported
	case string(errCodingUnknown):
		return http.StatusNotImplemented
	case string(errExpectation):
		return http.StatusExpectationFailed
	}
	return http.StatusBadRequest
}
