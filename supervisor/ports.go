package supervisor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

// ports gives engines free TCP ports on 127.0.0.1, each to one worker at a time.
//
// They lie outside the range that the kernel takes for outgoing connections:
// an engine may load for minutes before it binds its port, and until then any
// outgoing connection of the host could have been given the same number.
type ports struct {
	low, high int // the kernel's range, both included
	free      func(port int) bool

	mu    sync.Mutex
	taken map[int]bool
}

// Ports below belong to services, known and unknown.
const firstPort = 10000

func newPorts() *ports {
	low, high := 32768, 60999 // the kernel's own default
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var l, h int
		if n, _ := fmt.Sscan(string(text), &l, &h); n == 2 && l > 0 && l <= h && h <= 65535 {
			low, high = l, h
		}
	}
	return &ports{low: low, high: high, free: canBind, taken: make(map[int]bool)}
}

// take reserves a port until give. It starts at a random place, so that two
// masters on one host seldom try the same.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var candidates []int
	for port := firstPort; port <= 65535; port++ {
		if (port < p.low || port > p.high) && !p.taken[port] {
			candidates = append(candidates, port)
		}
	}
	if len(candidates) > 0 {
		start := rand.IntN(len(candidates))
		for i := range candidates {
			port := candidates[(start+i)%len(candidates)]
			if p.free(port) {
				p.taken[port] = true
				return port, nil
			}
		}
	}
	return 0, fmt.Errorf("no free TCP port on 127.0.0.1 between %d and 65535 outside net.ipv4.ip_local_port_range (%d to %d)",
		firstPort, p.low, p.high)
}

// hold reserves the port of an engine that was adopted.
func (p *ports) hold(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[port] = true
}

// give takes a reservation back.
func (p *ports) give(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

// canBind reports whether nobody holds the port right now.
func canBind(port int) bool {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
