// Package sse reads streams of server-sent events as WHATWG's HTML standard has
// them (9.2.6): lines end with LF, CRLF or CR, an empty line ends an event, a byte
// order mark may come first, a comment begins with a colon. It knows nothing of
// what events mean.
//
// A stream comes in pieces of any size. Splitter says where the next event ends,
// looking at each byte once; Parse reads what lies before. Nothing is copied
// but data of more than one line. Scanner does both, and holds what is not whole yet.
//
//	state of Splitter   on CR or LF            on another byte
//	lineStart           the event ends here    inLine
//	inLine              lineStart              inLine
//
// A LF right after a CR belongs to it. Whether one follows is not waited for: an
// event whose last byte so far is a CR is whole, and the LF that may come is
// the first byte of what comes next, where Parse passes it over.
package sse
