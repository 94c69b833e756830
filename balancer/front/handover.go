package front

import (
	"net"
	"net/http"
	"sync"
)

// preface is how an HTTP/2 connection begins: the part that an HTTP/1 server
// takes for a request. The rest, "SM\r\n\r\n", is left unread by it.
const preface = "PRI * HTTP/2.0\r\n\r\n"

// handover is the listener of the HTTP/2 server: it accepts the connections on
// which the HTTP/1 server found the preface.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.UnixAddr{Name: "handover", Net: "unix"} }

// isPreface says whether net/http took the beginning of HTTP/2 for a request.
func isPreface(r *http.Request) bool {
	return r.Method == "PRI" && r.ProtoMajor == 2 && r.RequestURI == "*" && len(r.Header) == 0
}

// handOver gives the connection under w to the HTTP/2 server, with what has
// been read of it.
func (f *Front) handOver(w http.ResponseWriter, c *conn) {
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.log.Debug("http/2 connection lost", "error", err)
		return
	}
	rest, _ := buffered.Peek(buffered.Reader.Buffered()) // never more than there is
	c.replay = append([]byte(preface), rest...)
	select {
	case f.handover.conns <- c:
	case <-f.handover.done:
		_ = c.Close()
		connState(c, http.StateClosed)
	}
}
