// Package rawconn wraps a TCP or unix stream socket so that reads and writes
// are plain non-blocking system calls made inside the runtime's poller
// callbacks. It knows no protocol.
package rawconn
