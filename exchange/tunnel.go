package exchange

import (
	"time"

	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// Upgrader is a Sink whose client's connection can become a tunnel: that of a
// request with Exchange.WebSocket.
type Upgrader interface {
	// Upgrade starts the answer with 101 (Switching Protocols), and hands the
	// client's connection over. Fields holds none of the connection's own. End or
	// Break must follow once nobody uses the tunnel any more; nothing else may.
	Upgrade(r *http1.Response) (Tunnel, error)
}

// Tunnel is a client's connection that carries no HTTP any more. At any moment
// at most one goroutine may read and at most one may write. Errors are the client's.
type Tunnel interface {
	// ReadLazily reads into the memory that room returns; rest is called before
	// it waits. See rawconn.Conn.
	ReadLazily(room func() []byte, rest func() error) (int, error)
	// Write passes p on at once.
	Write(p []byte) (int, error)
	// Splice is that of Sink.
	Splice(src *rawconn.Conn, n int64) (moved int64, err error)
	// CloseWrite says that nothing more will be written.
	CloseWrite() error
	// Interrupt makes a read in progress, and every later one, return an error
	// soon. Anybody may call it.
	Interrupt()
	// IdleLimit is how long nothing may pass in either direction; 0: any time.
	IdleLimit() time.Duration
}
