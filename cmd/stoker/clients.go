package main

import (
	"math"

	"golang.org/x/sys/unix"

	"stoker/balancer/front"
	"stoker/config"
)

const (
	// spareDescriptors are for all but traffic: listeners, keepers, logs, probes.
	spareDescriptors = 200
	// descriptorsEach is what a connection with a request on it needs: itself and
	// one to a worker. A large body that finds none left for its pipe is copied.
	descriptorsEach = 2
)

// frontLimits are what a configuration says of clients.
func frontLimits(cfg *config.Config) front.Limits {
	c := &cfg.Clients
	l := front.Limits{
		Handshake: cfg.TLS.HandshakeTimeout.Std(), Head: c.HeadTimeout.Std(), Idle: c.IdleTimeout.Std(),
		Body: c.BodyTimeout.Std(), BodyRate: int64(c.BodyRate),
		Write: c.WriteTimeout.Std(), WriteRate: int64(c.WriteRate),
		Tunnel: c.TunnelIdle.Std(),
		Conns:  c.Connections, ConnsPerAddress: c.ConnectionsPerAddress, Exempt: cfg.TrustedProxies,
	}
	if l.Conns == 0 {
		l.Conns = roomForConnections()
	}
	return l
}

// roomForConnections is how many connections the limit of open files has room
// for. Beyond it connections to workers could not be made, and workers would be
// blamed; or none would be accepted, not even to be told so.
func roomForConnections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return 0 // any number
	}
	return max(int(limit.Cur)-spareDescriptors, descriptorsEach) / descriptorsEach
}
