//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// talker is a service of text: what a call does is in its first word.
//
//	say TEXT    is answered with TEXT
//	repeat N    is answered with N bytes
//	serving X, not-serving X   say so of service X from now on
//	fail TEXT   ends with FAILED_PRECONDITION and TEXT
//	hold ID     answers nothing until the client goes, which is noted
//	deadline    is answered with the seconds that are left
type talker struct{ health *health.Server }

// talkerService is what a compiler would make of a description.
var talkerService = grpc.ServiceDesc{
	ServiceName: "e2e.Talk",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return srv.(*talker).unary(ctx, in.Value)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
		return srv.(*talker).both(stream)
	}}},
}

// newTalkServer is a server of talk, and of gRPC's health service.
func newTalkServer(o ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(o...)
	t := &talker{health: health.NewServer()}
	s.RegisterService(&talkerService, t)
	healthpb.RegisterHealthServer(s, t.health)
	return s
}

// serveGRPC is the engine's part.
func serveGRPC(l net.Listener) error { return newTalkServer().Serve(l) }

func (t *talker) unary(ctx context.Context, text string) (*wrapperspb.StringValue, error) {
	word, rest, _ := strings.Cut(text, " ")
	if got := metadata.ValueFromIncomingContext(ctx, "x-said"); len(got) > 0 {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-heard", got[0]))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-after", got[0], "x-after-bin", "\x00\xff"))
	}
	switch word {
	case "say":
		return wrapperspb.String(rest), nil
	case "repeat":
		var n int
		fmt.Sscan(rest, &n)
		return wrapperspb.String(strings.Repeat("x", n)), nil
	case "serving":
		t.health.SetServingStatus(rest, healthpb.HealthCheckResponse_SERVING)
		return wrapperspb.String(""), nil
	case "not-serving":
		t.health.SetServingStatus(rest, healthpb.HealthCheckResponse_NOT_SERVING)
		return wrapperspb.String(""), nil
	case "pid":
		return wrapperspb.String(fmt.Sprint(os.Getpid())), nil
	case "hold":
		note("held %s", rest)
		<-ctx.Done()
		note("gone %s", rest)
		return nil, ctx.Err()
	case "deadline":
		by, ok := ctx.Deadline()
		if !ok {
			return wrapperspb.String("none"), nil
		}
		return wrapperspb.String(fmt.Sprint(time.Until(by).Seconds())), nil
	}
	return nil, status.Error(codes.FailedPrecondition, rest)
}

// both answers each message before it reads the next, and says at the end how
// many there were. "leave" ends it while the client could still send.
func (t *talker) both(stream grpc.ServerStream) error {
	if err := stream.SendHeader(metadata.Pairs("x-began", "yes")); err != nil {
		return err
	}
	n := 0
	defer func() { stream.SetTrailer(metadata.Pairs("x-count", fmt.Sprint(n))) }()
	for {
		in := new(wrapperspb.StringValue)
		err := stream.RecvMsg(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			note("gone %s", metadata.ValueFromIncomingContext(stream.Context(), "x-said"))
			return err
		case in.Value == "leave":
			return nil
		}
		n++
		if err := stream.SendMsg(wrapperspb.String("you said " + in.Value)); err != nil {
			return err
		}
	}
}

// callTalk makes a call without streams.
func callTalk(ctx context.Context, c *grpc.ClientConn, text string, o ...grpc.CallOption) (string, error) {
	out := new(wrapperspb.StringValue)
	err := c.Invoke(ctx, "/e2e.Talk/Unary", wrapperspb.String(text), out, o...)
	return out.Value, err
}

// conversation is an open stream.
type conversation struct{ grpc.ClientStream }

func converse(ctx context.Context, c *grpc.ClientConn) (*conversation, error) {
	s, err := c.NewStream(ctx, &talkerService.Streams[0], "/e2e.Talk/Both")
	return &conversation{s}, err
}

// say sends a message and waits for its answer.
func (c *conversation) say(text string) error {
	if err := c.SendMsg(wrapperspb.String(text)); err != nil {
		return err
	}
	return c.hear("you said " + text)
}

func (c *conversation) hear(want string) error {
	in := new(wrapperspb.StringValue)
	if err := c.RecvMsg(in); err != nil {
		return err
	}
	if in.Value != want {
		return fmt.Errorf("heard %q, want %q", in.Value, want)
	}
	return nil
}

// end says that no more will be sent, and returns how many messages the server counts.
func (c *conversation) end() (string, error) {
	if err := c.CloseSend(); err != nil {
		return "", err
	}
	if err := c.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("the stream does not end: %w", err)
	}
	return strings.Join(c.Trailer().Get("x-count"), ","), nil
}
