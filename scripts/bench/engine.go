package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// The engine answers by canned bytes, so that it costs next to nothing and the
// proxy is what saturates: /small with 1 KiB of JSON, /stream with events.

const (
	events   = 50 // per stream and second
	smallLen = 1024
)

// runEngine serves until killed; it returns only an error.
func runEngine(addresses []string) error {
	failed := make(chan error)
	for _, address := range addresses {
		listener, err := listen(context.Background(), address)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					failed <- err
					return
				}
				go answer(conn)
			}
		}()
	}
	return <-failed
}

// answer serves one connection until its peer goes. It writes one answer per
// request, to the byte: after a single surplus byte a proxy rightly closes the
// connection, and then dialing is what would be measured.
func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	small := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{\"text\":%q}", smallLen, strings.Repeat("x", smallLen-11))
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		for header := line; len(header) > len("\r\n"); {
			if header, err = reader.ReadString('\n'); err != nil {
				return
			}
		}
		if strings.HasPrefix(line, "GET /stream/") {
			err = stream(conn, line)
		} else {
			_, err = conn.Write(small)
		}
		if err != nil {
			return
		}
	}
}

// stream writes as many events as the path asks for, each with the time.
func stream(conn net.Conn, line string) error {
	n := 0
	if _, err := fmt.Sscanf(line, "GET /stream/%d ", &n); err != nil {
		return fmt.Errorf("how many events? %w", err)
	}
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second / events)
	defer tick.Stop()
	for range n {
		event := fmt.Sprintf("data: {\"t\":%d,\"text\":\" token\"}\n\n", time.Now().UnixNano())
		if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(event), event); err != nil {
			return err
		}
		<-tick.C
	}
	_, err := conn.Write([]byte("0\r\n\r\n"))
	return err
}

// startEngine runs one engine on n free ports, beside the load.
func startEngine(ctx context.Context, n int) (*pinned, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find myself: %w", err)
	}
	addresses := make([]string, n)
	for i := range addresses {
		if addresses[i], err = freeAddress(ctx); err != nil {
			return nil, nil, err
		}
	}
	p, err := startPinned(ctx, loadCore, append([]string{self, "engine"}, addresses...)...)
	if err != nil {
		return nil, nil, err
	}
	if err := waitServing(ctx, addresses[n-1]); err != nil {
		p.stop()
		return nil, nil, err
	}
	return p, addresses, nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", address)
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}
