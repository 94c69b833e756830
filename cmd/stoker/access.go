package main

import (
	"errors"
	"time"

	"stoker/balancer/guard"
	"stoker/config"
)

// keysLookedAt is how often the file of keys is looked at. A change that has
// stood still for as long is read.
const keysLookedAt = time.Second

// readKeys reads the file of keys, nil where none is configured. What is wrong
// in it is a problem of the configuration, with its place.
func readKeys(cfg *config.Config) (*guard.Keyring, error) {
	if cfg.Access.KeysFile == "" {
		return nil, nil //nolint:nilnil // no keys is what nil means to a guard
	}
	keys, err := guard.ReadKeyring(cfg.Access.KeysFile)
	if wrong, ok := errors.AsType[*guard.KeyError](err); ok {
		return nil, config.Problems{{File: wrong.File, Line: wrong.Line, Message: wrong.Message}}
	}
	return keys, err
}

// guardOptions are what a configuration says of who may ask, and how much.
func guardOptions(cfg *config.Config, keys *guard.Keyring) guard.Options {
	o := guard.Options{
		Allow: cfg.Access.Allow, Deny: cfg.Access.Deny, Keys: keys, PassKeys: cfg.Access.PassKeys,
		CORS: guard.CORS{
			Origins: cfg.CORS.Origins, Methods: cfg.CORS.Methods, Headers: cfg.CORS.Headers, Expose: cfg.CORS.Expose,
			MaxAge: cfg.CORS.MaxAge.Std(), Credentials: cfg.CORS.Credentials,
		},
	}
	for _, l := range cfg.Limits {
		o.Limits = append(o.Limits, guard.Limit{
			Name: l.Name, Per: guard.Scope(l.Per), Pool: l.Pool, Route: l.Route, Window: l.Window.Std(),
			Requests: l.Requests, Burst: l.Burst, InFlight: l.InFlight, Bytes: int64(l.BodyKiB) << 10,
		})
	}
	return o
}

// guardBy goes by other keys and rules. Limits that stay as they are go on
// counting. Whoever calls it holds changing, or is alone.
func (m *master) guardBy(cfg *config.Config, keys *guard.Keyring) *guard.Guard {
	m.guard = guard.New(guardOptions(cfg, keys), m.guard)
	m.keys.Store(keys)
	return m.guard
}

// watchKeys looks at the file of keys until stop is called. One that is wrong
// changes nothing.
func (m *master) watchKeys() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(keysLookedAt)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.refreshKeys()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (m *master) refreshKeys() {
	keys := m.keys.Load()
	if keys == nil {
		return
	}
	switch read, err := keys.Refresh(); {
	case err != nil:
		m.log.Error("the file of keys has changed and cannot be used: the keys stay as they were", "file", keys.Path(), "error", err)
	case read:
		m.log.Info("keys read", "file", keys.Path(), "keys", keys.Len())
	}
}
