// Package websocket is as much of RFC 6455 as a proxy needs: what an opening
// handshake is, where frames end, and how to say goodbye between two of them.
// It reads no payload, and knows neither sockets nor upstreams.
package websocket

import (
	"crypto/sha1" //nolint:gosec // G505: RFC 6455 wants it, and it protects nothing
	"encoding/base64"
	"net/http"
	"strings"

	"stoker/internal/http1"
)

// Fields of the opening handshake that are read here. All others are the
// engine's matter.
const (
	keyField     = "Sec-WebSocket-Key"
	acceptField  = "Sec-WebSocket-Accept"
	versionField = "Sec-WebSocket-Version"

	// Version is the one that there is.
	Version = "13"
)

// HandshakeError says why what asked for a WebSocket was no opening handshake.
// It holds nothing of the request.
type HandshakeError string

func (e HandshakeError) Error() string { return string(e) }

// What is wrong with an opening handshake. ErrVersion alone has a status of its
// own, 426 (RFC 6455 4.4).
const (
	ErrMethod     = HandshakeError("a WebSocket is opened by GET")
	ErrBody       = HandshakeError("a request that opens a WebSocket has no body")
	ErrKey        = HandshakeError("Sec-WebSocket-Key must be there once, 16 bytes in base64")
	ErrNoVersion  = HandshakeError("Sec-WebSocket-Version must be there once")
	ErrVersion    = HandshakeError("Sec-WebSocket-Version must be 13")
	keyBytes      = 16
	acceptTrailer = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Check says what is wrong with a request that asks for a WebSocket (RFC 6455
// 4.2.1), nil if nothing is. length is that of its body.
func Check(r *http1.Request, length int64) error {
	if r.Method != http.MethodGet {
		return ErrMethod
	}
	if length != 0 {
		return ErrBody
	}
	key, ok := only(r.Fields, keyField)
	if !ok || !validKey(key) {
		return ErrKey
	}
	version, ok := only(r.Fields, versionField)
	switch {
	case !ok || version == "":
		return ErrNoVersion
	case version != Version:
		return ErrVersion
	}
	return nil
}

func validKey(key string) bool {
	var room [keyBytes + 2]byte
	if len(key) != base64.StdEncoding.EncodedLen(keyBytes) {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(room[:], []byte(key))
	return err == nil && n == keyBytes
}

// only returns the value of the one field called name; false: there is none, or
// several.
func only(fields http1.Fields, name string) (value string, ok bool) {
	for _, f := range fields {
		if len(f.Name) != len(name) || !strings.EqualFold(f.Name, name) {
			continue
		}
		if ok {
			return "", false
		}
		value, ok = f.Value, true
	}
	return value, ok
}

// Accepts says whether an answer's fields accept the handshake of a request's.
// It tells one that a WebSocket server has made from one that a cache or a
// confused server has.
func Accepts(request, answer http1.Fields) bool {
	key, _ := only(request, keyField)
	accept, ok := only(answer, acceptField)
	return ok && accept == Accept(key)
}

// Accept is what answers a key.
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + acceptTrailer)) //nolint:gosec // G401: see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}
