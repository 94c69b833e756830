package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// adminConns knows which connections of the admin listeners wait for an answer:
// those that are new, or have sent something. http.Server.Shutdown drops a
// request that ends after it began, which would show in an upgrade as a failed
// scrape.
type adminConns struct {
	mu   sync.Mutex
	busy map[net.Conn]struct{}
	// quiet is closed when busy becomes empty; nil while nobody waits for that.
	quiet chan struct{}
}

// track is the server's ConnState.
func (a *adminConns) track(c net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		if a.busy == nil {
			a.busy = map[net.Conn]struct{}{}
		}
		a.busy[c] = struct{}{}
		return
	case http.StateIdle, http.StateHijacked, http.StateClosed:
		delete(a.busy, c)
	}
	if len(a.busy) == 0 && a.quiet != nil {
		close(a.quiet)
		a.quiet = nil
	}
}

// wait blocks until every request has been answered, or limit is over. No new
// connection may come any more.
func (a *adminConns) wait(limit time.Duration) {
	a.mu.Lock()
	if len(a.busy) == 0 {
		a.mu.Unlock()
		return
	}
	if a.quiet == nil {
		a.quiet = make(chan struct{})
	}
	quiet := a.quiet
	a.mu.Unlock()
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case <-quiet:
	case <-over.C:
	}
}
