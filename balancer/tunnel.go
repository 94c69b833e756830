package balancer

import (
	"errors"
	"net/http"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/websocket"
)

var (
	errNoUpgrade = errors.New("the client's connection cannot become a tunnel")

	errWebSocketVersion = &requestError{http.StatusUpgradeRequired, "websocket_version", websocket.ErrVersion.Error()}

	errWebSocketHTTP2 = &requestError{http.StatusNotImplemented, "websocket_over_http2", "no WebSocket leads to this pool: its workers are spoken to in HTTP/2"}

	// versionFields name the version that there is, as RFC 6455 4.4 wants it.
	versionFields = http1.Fields{{Name: "Sec-WebSocket-Version", Value: websocket.Version}, {Name: "Upgrade", Value: "websocket"}}
)

// checkWebSocket refuses what asks for a WebSocket and does so in a way that an
// engine may take for something else than we do.
func checkWebSocket(x *exchange.Exchange) error {
	if !x.WebSocket {
		return nil
	}
	err := websocket.Check(&x.Request, x.Length)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, websocket.ErrVersion):
		return errWebSocketVersion
	}
	return &requestError{http.StatusBadRequest, "bad_websocket", err.Error()}
}

// tunnel counts what passes. What that is nobody keeps: the recorder knows no frames.
type tunnel struct {
	exchange.Tunnel
	a *attempt
}

// Write implements exchange.Tunnel.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Tunnel.Write(p)
	t.count(int64(n))
	return n, err
}

// Splice implements exchange.Tunnel.
func (t *tunnel) Splice(src *rawconn.Conn, n int64) (int64, error) {
	moved, err := t.Tunnel.Splice(src, n)
	t.count(moved)
	return moved, err
}

func (t *tunnel) count(n int64) {
	t.a.x.Record.BytesOut += n
	t.a.record.Skip(n)
}
