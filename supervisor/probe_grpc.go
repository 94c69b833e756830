package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"

	"stoker/config"
)

// healthMethod is where servers of gRPC tell how they are, by a protocol of
// gRPC's own (grpc.health.v1).
const healthMethod = "/grpc.health.v1.Health/Check"

// servingStatus are the names of HealthCheckResponse's numbers.
var servingStatus = map[uint64]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

const serving = 1

// newGRPCProbe asks a server of gRPC whether it serves. One message of one field
// goes each way, which is not worth gRPC's library and what that depends on.
func newGRPCProbe(h config.Health, address string, how manner) probe {
	t := newPeer(address, how)
	client := newProbeClient(t)
	question := healthQuestion(h.Service)
	what := "Health/Check"
	if h.Service != "" {
		what += " of " + h.Service
	}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.host+healthMethod, bytes.NewReader(question))
		if err != nil {
			return fmt.Errorf("probe %s: %w", what, err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Te", "trailers")
		answer, err := fetchWhole(client, r, maxProbeBody)
		if err != nil {
			return probeFailure(what, err)
		}
		if err := healthAnswer(answer); err != nil {
			return failed(failAnswered, "%s: %w", what, err)
		}
		return nil
	}
}

// healthQuestion is a HealthCheckRequest, framed as a message of gRPC.
func healthQuestion(service string) []byte {
	message := []byte{}
	if service != "" {
		message = protowire.AppendString(protowire.AppendTag(message, 1, protowire.BytesType), service)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// healthAnswer says why an answer is not that the server serves.
func healthAnswer(a *wholeAnswer) error {
	if a.status != http.StatusOK {
		return fmt.Errorf("answered %d%s", a.status, quoted(a.body))
	}
	switch code := a.grpc("Grpc-Status"); code {
	case "0":
	case "":
		return errors.New("answered without grpc-status: it is no gRPC")
	case "12":
		return errors.New("answered UNIMPLEMENTED: the server has no grpc.health.v1; choose another kind of probe")
	default:
		return fmt.Errorf("answered grpc-status %s%s", printable(code), quoted([]byte(a.grpc("Grpc-Message"))))
	}
	status, err := servingStatusOf(a.body)
	switch {
	case err != nil:
		return err
	case status == serving:
		return nil
	case servingStatus[status] != "":
		return errors.New("answered " + servingStatus[status])
	}
	return fmt.Errorf("answered with status %d", status)
}

var errNoMessage = errors.New("answered with no message of gRPC")

// servingStatusOf reads a HealthCheckResponse in its frame.
func servingStatusOf(body []byte) (uint64, error) {
	const frame = 5
	if len(body) < frame || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-frame) {
		return 0, errNoMessage
	}
	var status uint64
	for rest := body[frame:]; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return 0, errNoMessage
		}
		rest = rest[n:]
		if number == 1 && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(rest)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, rest)
		}
		if n < 0 {
			return 0, errNoMessage
		}
		rest = rest[n:]
	}
	return status, nil
}
