package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"stoker/balancer/tokens"
	"stoker/internal/door"
	"stoker/supervisor"
	"stoker/upstream"
)

// admin answers operators and their tools, on a unix socket in the run
// directory (mode 0600: the file system says who may) and on TCP where
// configured. It lives from before the first engine to after the last.
type admin struct {
	server    http.Server
	path      string // of the socket
	listeners []net.Listener
	conns     adminConns
	accepting sync.WaitGroup
}

// status is the document of GET /status and "stoker status --json".
type status struct {
	// PID is the master's.
	PID int `json:"pid"`
	// State is starting, ready, draining or stopping.
	State string `json:"state"`
	// Generation counts the masters that have handed over to each other.
	Generation int `json:"generation"`
	// Older are generations that finish their requests.
	Older   []olderStatus `json:"older,omitempty"`
	Version string        `json:"version"`
	// Listen are the addresses of the traffic door, unix sockets as "unix:/PATH".
	Listen []string `json:"listen"`
	// ListenTLS are those of listeners that speak TLS.
	ListenTLS []string                `json:"listen_tls,omitempty"`
	Pools     []supervisor.PoolStatus `json:"pools"`
	// Tokens are what was counted of answers since this master began, by pool and model.
	Tokens []tokens.Summary `json:"tokens,omitempty"`
}

// openAdmin opens the listeners, or takes those of the generation before, and
// does not serve yet.
func openAdmin(ctx context.Context, m *master) (*admin, error) {
	a := &admin{
		server: http.Server{Handler: adminHandlerFor(m), ConnContext: markSocket, ReadHeaderTimeout: 10 * time.Second},
		path:   m.cfg.AdminSocket(),
	}
	a.server.ConnState = a.conns.track
	socket, err := m.inherit.share(adminFile+a.path, func() (net.Listener, error) { return listenAdminSocket(ctx, a.path) })
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	a.listeners = append(a.listeners, socket)
	if m.cfg.Admin == "" {
		return a, nil
	}
	tcp, err := m.inherit.share(adminFile+m.cfg.Admin, func() (net.Listener, error) {
		var lc net.ListenConfig
		return lc.Listen(ctx, "tcp", m.cfg.Admin)
	})
	if err != nil {
		a.giveUp(m.inherit.successor())
		return nil, fmt.Errorf("open admin listener: %w", door.Explain(m.cfg.Admin, err))
	}
	a.listeners = append(a.listeners, tcp)
	return a, nil
}

// listenAdminSocket opens the socket, mode 0600. The run directory is ours by
// its lock: a socket that is there is a dead master's.
func listenAdminSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var lc net.ListenConfig
	socket, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// Whoever closes it last removes it: see close.
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// serve answers until close.
func (a *admin) serve() error {
	var g errgroup.Group
	for _, l := range a.listeners {
		a.accepting.Add(1)
		g.Go(func() error {
			defer a.accepting.Done()
			if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve admin on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// close ends it for good.
func (a *admin) close() {
	a.leave()
	_ = os.Remove(a.path) // it may never have been there
}

// giveUp leaves no trace of a listener that has not served: a successor's is
// still its elder's, anyone else's socket would be left behind.
func (a *admin) giveUp(successor bool) {
	if successor {
		a.leave()
		return
	}
	a.close()
}

// leave ends what is being answered after a second, and leaves the sockets to
// whoever shares them.
func (a *admin) leave() {
	for _, l := range a.listeners {
		_ = l.Close()
	}
	a.accepting.Wait() // then every connection that was accepted is known
	a.conns.wait(time.Second)
	_ = a.server.Close()
}

// adminMux answers what only looks; handleControl adds what changes anything.
func adminMux(m *master) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", m.answerReady)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, m.status())
	})
	mux.HandleFunc("GET /requests", m.answerRequests)
	mux.HandleFunc("GET /quarantine", m.answerQuarantine)
	mux.HandleFunc("POST /quarantine/lift", m.liftQuarantine)
	mux.HandleFunc("POST /quarantine/add", m.addQuarantine)
	mux.HandleFunc("POST /route", m.answerRoute)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.carried, promhttp.HandlerOpts{}))
	return mux
}

func (m *master) status() status {
	return status{PID: os.Getpid(), State: m.state(), Generation: m.inherit.generation(), Older: m.elder.status(), Version: version, Listen: m.addresses(false), ListenTLS: m.addresses(true), Pools: m.sup.Status(), Tokens: m.tokens.Summaries()}
}

// addresses are where clients connect now.
func (m *master) addresses(secure bool) []string {
	cfg := m.current.Load()
	all := []string{}
	for _, l := range m.door.Listeners() {
		if configured, _ := m.configured.Load(l); configured != nil && cfg.Secure(configured.(string)) != secure {
			continue
		}
		address := l.Addr()
		if address.Network() == "unix" {
			all = append(all, "unix:"+address.String())
			continue
		}
		all = append(all, address.String())
	}
	return all
}

// The states of a master that serves.
const (
	stateStarting = "starting"
	stateReady    = "ready"
)

// state is one word for the whole: while serving, a master is ready when every
// pool has an upstream that is, and starting otherwise.
func (m *master) state() string {
	if now := m.now(); now != serving {
		return now.String()
	}
	for _, pool := range m.pools.all() {
		if !anyReady(pool.Stats().Members) {
			return stateStarting
		}
	}
	return stateReady
}

func writeJSON(w http.ResponseWriter, code int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	// An error here is the reader's having gone.
	_ = enc.Encode(document)
}

func anyReady(members []upstream.MemberStats) bool {
	for i := range members {
		if members[i].Ready {
			return true
		}
	}
	return false
}
