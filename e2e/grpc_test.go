//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// talkPool is a pool of engines that speak gRPC, at a socket or a port.
func talkPool(name string, workers int, where ...string) string {
	return fmt.Sprintf("[[pools]]\nname = %q\nprotocol = \"h2\"\nworkers = %d\nhealth.kind = \"grpc\"\nhealth.interval = \"200ms\"\nmin_remaining = \"0s\"\nrestart.delay = \"50ms\"\ncommand = %s\n",
		name, workers, list(engine(append([]string{"--grpc"}, where...)...)...))
}

// dialGRPC makes a client of its own connection; TLS with secure.
func dialGRPC(t *testing.T, address string, secure bool) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestGRPC: a client of gRPC's own library and a server of it see nothing of what is
// between them, in the clear and over TLS; what goes wrong is told in gRPC's way.
func TestGRPC(t *testing.T) {
	waits(t)
	s := newSecure(t)
	m := start(t, s.config+talkPool("talk", 1, "--socket", "{socket}")+
		"[[routes]]\npath = \"/e2e.Talk\"\npool = \"talk\"\n[[routes]]\npath = \"/grpc.health.v1.Health\"\npool = \"talk\"\n").allReady()
	for _, secure := range []bool{false, true} {
		address := m.address
		if secure {
			address = s.address
		}
		t.Run(fmt.Sprintf("secure=%v", secure), func(t *testing.T) {
			c := dialGRPC(t, address, secure)
			t.Run("unary", func(t *testing.T) { m.unaryCalls(t, c) })
			t.Run("streams", func(t *testing.T) { m.streams(t, c) })
			t.Run("cancel", func(t *testing.T) { m.cancelled(t, c, fmt.Sprint(secure)) })
			t.Run("death", func(t *testing.T) { m.deathInStream(t, c) })
		})
	}
	m.stop()
}

func (m *master) unaryCalls(t *testing.T, c *grpc.ClientConn) {
	t.Helper()
	var head, trailer metadata.MD
	got, err := callTalk(metadata.AppendToOutgoingContext(within(t), "x-said", "me"), c, "say hello", grpc.Header(&head), grpc.Trailer(&trailer))
	if err != nil || got != "hello" || head.Get("x-heard")[0] != "me" || trailer.Get("x-after")[0] != "me" || trailer.Get("x-after-bin")[0] != "\x00\xff" {
		t.Errorf("%q, %v, head %v, trailer %v", got, err, head, trailer)
	}
	if got, err := callTalk(within(t), c, "repeat 3000000"); err != nil || len(got) != 3_000_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := callTalk(within(t), c, "say "+strings.Repeat("y", 3_000_000)); err != nil || len(got) != 3_000_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := callTalk(within(t), c, "fail because: 100 % “so”"); status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "because: 100 % “so”" {
		t.Errorf("the engine's error: %v", err)
	}
	if got, err := callTalk(within(t), c, "deadline"); err != nil {
		t.Error(err)
	} else if left, _ := strconv.ParseFloat(got, 64); left <= 0 || left > patience.Seconds() {
		t.Errorf("the engine has %q seconds", got)
	}
	if err := c.Invoke(within(t), "/e2e.Other/Method", wrapperspb.String(""), new(wrapperspb.StringValue)); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "no route") {
		t.Errorf("no route: %v", err)
	}
	if answer, err := healthpb.NewHealthClient(c).Check(within(t), &healthpb.HealthCheckRequest{}); err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", answer, err)
	}
	if _, err := healthpb.NewHealthClient(c).Check(within(t), &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an answer that is its trailers alone: %v", err)
	}
}

func (m *master) streams(t *testing.T, c *grpc.ClientConn) {
	t.Helper()
	both, err := converse(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if head, err := both.Header(); err != nil || head.Get("x-began")[0] != "yes" { // before any message
		t.Fatalf("%v, %v", head, err)
	}
	for i := range 100 {
		if err := both.say(fmt.Sprint("message ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := both.end(); err != nil || n != "100" {
		t.Errorf("%s messages, %v", n, err)
	}
	if both, err = converse(within(t), c); err != nil {
		t.Fatal(err)
	}
	if err := both.SendMsg(wrapperspb.String("leave")); err != nil {
		t.Fatal(err)
	}
	if err := both.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Errorf("the server ends first: %v", err)
	}

	watch, err := healthpb.NewHealthClient(c).Watch(within(t), &healthpb.HealthCheckRequest{Service: "watched"})
	if err != nil {
		t.Fatal(err)
	}
	want := []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVICE_UNKNOWN}
	for _, word := range []string{"", "serving", "not-serving", "serving"} {
		if word != "" {
			if _, err := callTalk(within(t), c, word+" watched"); err != nil {
				t.Fatal(err)
			}
			want[0] = map[string]healthpb.HealthCheckResponse_ServingStatus{
				"serving": healthpb.HealthCheckResponse_SERVING, "not-serving": healthpb.HealthCheckResponse_NOT_SERVING,
			}[word]
		} else if _, err := callTalk(within(t), c, "say forget"); err != nil {
			t.Fatal(err)
		}
		answer, err := watch.Recv()
		if err != nil || word != "" && answer.Status != want[0] {
			t.Fatalf("%s: %v, %v", word, answer, err)
		}
	}
}

func (m *master) cancelled(t *testing.T, c *grpc.ClientConn, id string) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() { _, err := callTalk(ctx, c, "hold "+id); done <- err }()
	has := func(line string) bool { return slices.Contains(m.engineEvents(), line) }
	m.eventually("the engine has the call", func() bool { return has("held " + id) })
	both, err := converse(metadata.AppendToOutgoingContext(ctx, "x-said", "both"+id), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.say("hello"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	m.eventually("the engine knows that both are gone", func() bool { return has("gone "+id) && has("gone [both"+id+"]") })
	m.eventually("nothing is in flight", func() bool { return m.worker("talk-0").InFlight == 0 })

	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := callTalk(short, c, "hold late"+id); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
}

// deathInStream: an engine that dies breaks its streams visibly; the next call waits
// for the next engine.
func (m *master) deathInStream(t *testing.T, c *grpc.ClientConn) {
	t.Helper()
	both, err := converse(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.say("hello"); err != nil {
		t.Fatal(err)
	}
	pid := m.worker("talk-0").PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := both.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Internal && status.Code(err) != codes.Unavailable {
		t.Errorf("the client of a stream whose engine has died is told: %v", err)
	}
	got := ""
	m.eventually("another engine answers", func() bool {
		got, err = callTalk(within(t), c, "pid")
		if err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("meanwhile: %v", err)
		}
		return err == nil
	})
	if got == fmt.Sprint(pid) {
		t.Error("the dead one answers")
	}
}

// TestGRPCShutdown: a stream goes on while the master drains, and ends well; the
// client is told to begin no more.
func TestGRPCShutdown(t *testing.T) {
	waits(t)
	m := start(t, "[shutdown]\ndrain_timeout = \"30s\"\n"+talkPool("talk", 1, "--port", "{port}")).allReady()
	c := dialGRPC(t, m.address, false)
	both, err := converse(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.say("before"); err != nil {
		t.Fatal(err)
	}
	m.signal(syscall.SIGTERM)
	m.eventually("the door is closed", func() bool {
		nc, err := net.Dial("tcp", m.address)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	for i := range 10 {
		if err := both.say(fmt.Sprint("while draining ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := both.end(); err != nil || n != "11" {
		t.Errorf("%s messages, %v", n, err)
	}
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.nothingLeft()
	if _, err := callTalk(within(t), c, "say late"); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// TestUpgradeGRPC: calls go on through upgrades and none fails; a stream that was
// open goes on as well.
func TestUpgradeGRPC(t *testing.T) {
	works(t)
	s := newSecure(t)
	u := startUpgradable(t, "access_log = \"off\"\n"+s.config+"[[routes]]\npath = \"/e2e.Talk\"\npool = \"talk\"\n[[routes]]\npool = \"p\"\n"+talkPool("talk", 2, "--socket", "{socket}"))
	clients := []*grpc.ClientConn{dialGRPC(t, u.address, false), dialGRPC(t, s.address, true)}
	var streams []*conversation
	for _, c := range clients {
		both, err := converse(within(t), c)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, both)
	}
	var over atomic.Bool
	seen := newTally()
	load := crowd(6, func(client, turn int) bool {
		what, said := "ok", ""
		if got, err := callTalk(within(t), clients[client%2], fmt.Sprint("say ", turn)); err != nil || got != fmt.Sprint(turn) {
			what, said = "failed", fmt.Sprint(got, err)
		}
		seen.add(what, said)
		return !over.Load()
	})
	for _, both := range streams {
		if err := both.say("before"); err != nil {
			t.Error(err)
		}
	}
	u.mustUpgrade()
	for _, both := range streams {
		if err := both.say("after"); err != nil {
			t.Error(err)
		}
		if n, err := both.end(); err != nil || n != "2" {
			t.Errorf("%s messages, %v", n, err)
		}
	}
	u.mustUpgrade() // it waits for the generation that had the streams
	over.Store(true)
	load.Wait()
	if wrong := seen.except("ok"); wrong != "" {
		t.Errorf("of %d calls: %s", seen.count("ok"), wrong)
	}
	u.untouched()
	t.Logf("%d calls", seen.count("ok"))
}

// TestGRPCServersOverTLS: servers that others run are spoken to as ALPN agrees, and
// one that ends gently costs no call.
func TestGRPCServersOverTLS(t *testing.T) {
	waits(t)
	s := newSecure(t)
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		t.Fatal(err)
	}
	var servers []*grpc.Server
	var addresses []string
	config := "[[pools]]\nname = \"far\"\nprotocol = \"h2\"\nhealth.kind = \"grpc\"\nhealth.interval = \"200ms\"\n"
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := newTalkServer(grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(l) }()
		t.Cleanup(func() { server.Stop(); <-served })
		servers, addresses = append(servers, server), append(addresses, l.Addr().String())
		config += fmt.Sprintf("[[pools.servers]]\naddress = %q\ntls = true\ntls_ca = %q\n", l.Addr(), s.cert)
	}
	m := start(t, config).ready()
	m.eventually("both are ready", func() bool {
		return m.serverState(addresses[0]) == "ready" && m.serverState(addresses[1]) == "ready"
	})
	c := dialGRPC(t, m.address, false)
	var over atomic.Bool
	seen := newTally()
	load := crowd(6, func(_, turn int) bool {
		what, said := "ok", ""
		if got, err := callTalk(within(t), c, fmt.Sprint("say ", turn)); err != nil || got != fmt.Sprint(turn) {
			what, said = "failed", fmt.Sprint(got, err)
		}
		seen.add(what, said)
		return !over.Load()
	})
	m.eventually("calls are answered", func() bool { return seen.count("ok") > 100 })
	servers[0].GracefulStop()
	before := seen.count("ok")
	m.eventually("calls are still answered", func() bool { return seen.count("ok") > before+100 })
	over.Store(true)
	load.Wait()
	if wrong := seen.except("ok"); wrong != "" {
		t.Errorf("of %d calls: %s", seen.count("ok"), wrong)
	}
	m.stop()
}
