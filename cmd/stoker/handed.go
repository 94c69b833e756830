package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"stoker/internal/door"
	"stoker/internal/systemd"
)

// handedIn are the sockets that the service manager gave us at the start: those
// of a socket unit, which it goes on holding, and those that an earlier master
// of this service stored, with the connections that have come since it died.
type handedIn struct {
	manager *systemd.Notifier
	log     hclog.Logger
	sockets []systemd.Handed
}

// takeHandedIn takes them from the environment. Call it before anything is executed.
func takeHandedIn(manager *systemd.Notifier, log hclog.Logger) *handedIn {
	sockets, rejected := systemd.Take()
	h := &handedIn{manager: manager, log: log, sockets: sockets}
	for _, r := range rejected {
		log.Warn("a descriptor from the service manager is no socket to serve on; it is closed", "name", r.Name, "error", r.Reason)
		if r.Stored {
			h.forget(r.Name)
		}
	}
	return h
}

// take returns the socket for a configured address, nil when there is none.
// Each is taken once; the first that fits is it.
func (h *handedIn) take(ctx context.Context, address string) *systemd.Handed {
	for i := range h.sockets {
		if h.sockets[i].Fits(ctx, address) {
			found := h.sockets[i]
			h.sockets = append(h.sockets[:i], h.sockets[i+1:]...)
			return &found
		}
	}
	return nil
}

// rest deals with the sockets that no address has taken. A stored one is of an
// address that is not configured any more, and is closed for good, before its
// port may be needed for another. A socket unit's is a contradiction between two
// configurations: clients would connect to it and never be served.
func (h *handedIn) rest() error {
	var strangers []string
	forgotten := 0
	for _, s := range h.sockets {
		if !s.Stored {
			strangers = append(strangers, fmt.Sprintf("%s (%s)", s.Listener.Addr(), s.Name))
			continue
		}
		h.log.Info("an earlier master's listener is not configured any more; it is closed", "listen", s.Listener.Addr().String())
		_ = s.Listener.Close() // only read from, by nobody
		h.forget(s.Name)
		forgotten++
	}
	if len(strangers) > 0 {
		return fmt.Errorf("the service manager's socket unit listens on what this configuration does not: %s; "+
			"name the same addresses in listen and in the unit's ListenStream", strings.Join(strangers, ", "))
	}
	if forgotten > 0 {
		h.settle()
	}
	return nil
}

// forget removes one socket from the store.
func (h *handedIn) forget(name string) {
	if err := h.manager.Remove(name); err != nil {
		h.log.Warn("the service manager goes on holding a socket that nobody serves", "name", name, "error", err)
	}
}

// settle waits until the manager has let go of what was forgotten: until then
// the addresses are in use.
func (h *handedIn) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), barrierLimit)
	defer cancel()
	if err := h.manager.Barrier(ctx); err != nil {
		h.log.Warn("the service manager may go on holding sockets that nobody serves", "error", err)
	}
}

// storeDoor gives the service manager a duplicate of each of our own listeners,
// so that clients of a master that dies wait instead of being refused, and sees
// to it that the manager has let go before the door closes for good.
func storeDoor(d *door.Door, addresses map[*door.Listener]string, manager *systemd.Notifier) error {
	if !manager.Enabled() || len(addresses) == 0 {
		return nil
	}
	names := make([]string, 0, len(addresses))
	for listener, address := range addresses {
		socket, ok := listener.Listener.(syscall.Conn)
		if !ok {
			continue
		}
		name := systemd.StoredName(address)
		if err := manager.Store(name, socket); err != nil {
			return err
		}
		names = append(names, name)
	}
	d.BeforeClose("the service manager", func() error {
		var errs []error
		for _, name := range names {
			errs = append(errs, manager.Remove(name))
		}
		ctx, cancel := context.WithTimeout(context.Background(), barrierLimit)
		defer cancel()
		return errors.Join(append(errs, manager.Barrier(ctx))...)
	})
	return nil
}

// openDoor listens on every address, or on none. What the service manager
// handed in, or the generation before passed on, is used for its address.
func openDoor(ctx context.Context, addresses []string, handed *handedIn, inherit *inheritance, log hclog.Logger) (*door.Door, error) {
	found := make(map[string]*systemd.Handed)
	for _, address := range addresses {
		if socket := handed.take(ctx, address); socket != nil {
			found[address] = socket
		}
	}
	d := door.New(log)
	d.BeforeClose("the upgrader", inherit.stop)
	if err := handed.rest(); err != nil {
		return nil, err
	}
	ours := make(map[*door.Listener]string)
	for _, address := range addresses {
		listener, shared, err := listen(ctx, address, found[address], inherit)
		if err != nil {
			// Not the door's end for clients: what is stored waits for the next try.
			return nil, errors.Join(err, d.Leave())
		}
		if shared {
			d.AddShared(listener)
			continue
		}
		ours[d.Add(listener)] = address
	}
	if err := storeDoor(d, ours, handed.manager); err != nil {
		log.Warn("clients are refused while no master runs", "error", err)
	}
	return d, nil
}

// listen returns the socket that was passed on or handed in, or opens one.
// shared: the service manager goes on listening on it when we are gone.
func listen(ctx context.Context, address string, handed *systemd.Handed, inherit *inheritance) (listener net.Listener, shared bool, err error) {
	for name, shared := range map[string]bool{doorFile + address: false, unitFile + address: true} {
		if listener, err := inherit.inherited(name); listener != nil || err != nil {
			return listener, shared, err
		}
	}
	name := doorFile + address
	if handed == nil {
		listener, err = door.Listen(ctx, address, door.Options{})
	} else if listener, shared = handed.Listener, !handed.Stored; shared {
		name = unitFile + address
	}
	if err != nil {
		return nil, false, err
	}
	return listener, shared, inherit.passOn(name, listener)
}
