package balancer

import (
	"net/http"
	"strconv"
	"strings"

	"stoker/internal/http1"
)

// Codes of gRPC that errors of our own have.
const (
	grpcCancelled         = 1
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

// grpcCodes are what statuses of HTTP become, which clients of gRPC hardly look
// at. Of what has no code here the client is told UNAVAILABLE, as gRPC itself has it.
var grpcCodes = map[int]int{
	http.StatusBadRequest:                  grpcInvalidArgument,
	http.StatusUnauthorized:                grpcUnauthenticated,
	http.StatusForbidden:                   grpcPermissionDenied,
	http.StatusNotFound:                    grpcUnimplemented, // no route: no such service here
	http.StatusRequestTimeout:              grpcCancelled,
	http.StatusRequestEntityTooLarge:       grpcResourceExhausted,
	http.StatusUnprocessableEntity:         grpcInvalidArgument, // not to be sent again
	http.StatusTooManyRequests:             grpcResourceExhausted,
	http.StatusRequestHeaderFieldsTooLarge: grpcResourceExhausted,
	http.StatusNotImplemented:              grpcUnimplemented,
	http.StatusBadGateway:                  grpcUnavailable,
	http.StatusServiceUnavailable:          grpcUnavailable,
	http.StatusGatewayTimeout:              grpcDeadlineExceeded,
}

func grpcCode(status int) int {
	if code, known := grpcCodes[status]; known {
		return code
	}
	return grpcUnavailable
}

const grpcType = "application/grpc"

// isGRPC says whether a request is gRPC's: that is HTTP/2 alone. Its body may be a
// stream of which the next message is an answer to the engine's, so that nobody
// may read it before the engine has the first.
func isGRPC(r *http1.Request) bool {
	if r.Proto < 20 {
		return false
	}
	kind := r.Fields.Get("Content-Type")
	if len(kind) < len(grpcType) || !strings.EqualFold(kind[:len(grpcType)], grpcType) {
		return false
	}
	rest := kind[len(grpcType):]
	return rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == ' '
}

// grpcRefusal is an error of our own as clients of gRPC read it: an answer that
// is its trailers alone.
func grpcRefusal(v verdict) reply {
	fields := http1.Fields{
		{Name: "Content-Type", Value: grpcType},
		{Name: "Grpc-Status", Value: strconv.Itoa(grpcCode(v.status))},
		{Name: "Grpc-Message", Value: grpcMessage(v.message)},
	}
	if v.retryAfter > 0 {
		fields = append(fields, http1.Field{Name: "Grpc-Retry-Pushback-Ms", Value: strconv.Itoa(v.retryAfter * 1000)})
	}
	return reply{status: http.StatusOK, fields: fields}
}

// grpcMessage writes text as grpc-message has it: percent-encoded UTF-8.
func grpcMessage(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteString(string([]byte{'%', hex[c>>4], hex[c&15]}))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
