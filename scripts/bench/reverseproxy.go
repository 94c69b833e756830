package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// proxied is what the ReverseProxy is told.
type proxied struct {
	Listen    string
	Upstreams []string
	Cert, Key string // files; empty: plain
}

// reverseProxy serves with what the standard library has, tuned: connections
// enough kept, buffers pooled, every write flushed, full duplex (without which
// it loses answers that come before the end of a request is read).
func reverseProxy(file string) error {
	text, err := os.ReadFile(file) //nolint:gosec // G304: the bench's own file
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var c proxied
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var dialer net.Dialer
	var turn atomic.Uint64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// The transport keeps connections by host, so each upstream has a name.
			r.Out.URL.Scheme, r.Out.URL.Host = "http", fmt.Sprintf("u%d.example:80", turn.Add(1)%uint64(len(c.Upstreams)))
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				var i int
				if _, err := fmt.Sscanf(address, "u%d.", &i); err != nil {
					return nil, fmt.Errorf("dial %s: %w", address, err)
				}
				network := "tcp"
				if isUnix(c.Upstreams[i]) {
					network = "unix"
				}
				return dialer.DialContext(ctx, network, c.Upstreams[i])
			},
			MaxIdleConns: 8192, MaxIdleConnsPerHost: 8192, IdleConnTimeout: time.Minute, DisableCompression: true,
			WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
		},
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorLog:      log.New(os.Stderr, "", 0),
	}
	server := &http.Server{
		Addr: c.Listen, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1.1 has it
			proxy.ServeHTTP(w, r)
		}),
	}
	if c.Cert != "" {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13}
		return server.ListenAndServeTLS(c.Cert, c.Key)
	}
	return server.ListenAndServe()
}

// buffers is a pool of copy buffers.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
