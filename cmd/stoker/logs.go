package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/balancer"
	"stoker/config"
	"stoker/exchange"
	"stoker/internal/linewriter"
)

// logs are the two streams of lines that a master writes, log and access log.
// Lines are dropped and counted when their reader is slow: a request must never
// wait for a terminal. Where they go, and how they look, can be changed.
type logs struct {
	// log is handed to all pieces once. It writes by way of switched.
	log      hclog.InterceptLogger
	switched logSwitch
	// access observes requests, by way of what is configured.
	access accessSwitch

	mu sync.Mutex
	// places are those in use, by name: "stderr", "stdout" or a path.
	places map[string]*logPlace
}

// logPlace is where lines go.
type logPlace struct {
	writer *linewriter.Writer
	file   *os.File // nil: a standard stream, which stays as it is
}

// flushLimit bounds the wait for what is still to be written to a place.
const flushLimit = time.Second

func newLogs(cfg *config.Config) (*logs, error) {
	l := &logs{places: map[string]*logPlace{}}
	// The logger decides by its level alone, and has the switch write.
	l.log = hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "stoker", Output: io.Discard, Level: hclog.LevelFromString(cfg.LogLevel)})
	l.log.RegisterSink(&l.switched)
	apply, err := l.prepare(cfg)
	if err != nil {
		return nil, err
	}
	apply()
	return l, nil
}

// logNames are the places of cfg's log and access log.
func logNames(cfg *config.Config) (log, access string) {
	log = "stderr"
	if cfg.LogFile != "" {
		log = cfg.LogFile
	}
	return log, cfg.AccessLog
}

// prepare opens what cfg needs beyond what is open, and returns what changes
// to it. An error changes nothing. Only one change is prepared at a time.
func (l *logs) prepare(cfg *config.Config) (apply func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log, access := logNames(cfg)
	next := map[string]*logPlace{}
	var opened []*logPlace
	for _, name := range []string{log, access} {
		if name == "off" || next[name] != nil {
			continue
		}
		if next[name] = l.places[name]; next[name] != nil {
			continue
		}
		if next[name], err = openLog(name, cfg); err != nil {
			for _, place := range opened {
				_ = place.close() // nothing was written to it
			}
			return nil, err
		}
		opened = append(opened, next[name])
	}
	return func() { l.apply(cfg, next) }, nil
}

// apply writes to other places from now on, and closes those that are not needed any more.
func (l *logs) apply(cfg *config.Config, next map[string]*logPlace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log, access := logNames(cfg)
	sink := hclog.NewSinkAdapter(&hclog.LoggerOptions{
		Level:      hclog.LevelFromString(cfg.LogLevel),
		Output:     next[log].writer,
		JSONFormat: cfg.LogFormat == "json",
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
		TimeFn:     time.Now,
	})
	l.log.SetLevel(hclog.LevelFromString(cfg.LogLevel))
	l.switched.to.Store(&sink)
	if access == "off" {
		l.access.to.Store(nil)
	} else {
		l.access.to.Store(balancer.NewAccessLog(next[access].writer, cfg.AccessLogForm()))
	}
	before := l.places
	l.places = next
	for name, place := range before {
		if next[name] == nil {
			_ = place.close() // a reader that is gone takes nothing
		}
	}
}

// openLog opens a place.
func openLog(name string, cfg *config.Config) (*logPlace, error) {
	switch name {
	case "stderr":
		return &logPlace{writer: linewriter.New(os.Stderr, lineOptions(cfg))}, nil
	case "stdout":
		return &logPlace{writer: linewriter.New(os.Stdout, lineOptions(cfg))}, nil
	}
	file, err := openLogFile(name)
	if err != nil {
		return nil, err
	}
	return &logPlace{writer: linewriter.New(file, lineOptions(cfg)), file: file}, nil
}

func openLogFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640) //nolint:gosec // the configuration names it
	if err != nil {
		return nil, fmt.Errorf("open log: %w; check log_file and access_log", err)
	}
	return file, nil
}

// close writes out what waits, for at most a second.
func (p *logPlace) close() error {
	err := p.writer.Close(flushLimit)
	if p.file != nil {
		err = errors.Join(err, p.file.Close())
	}
	return err
}

// reopen opens all files again by their names: what rotates logs has renamed
// those that are open. One that cannot be opened goes on where it was.
func (l *logs) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for name, place := range l.places {
		if place.file == nil {
			continue
		}
		file, err := openLogFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// What was logged before the rotation belongs to the renamed file; if that
		// takes no more (a full disk), the new one gets it.
		_ = place.writer.Flush(flushLimit)
		old := place.file
		place.file = file
		place.writer.Reopen(file)
		// Without an error the old file has what belongs to it.
		if err := place.writer.Flush(flushLimit); err != nil {
			errs = append(errs, fmt.Errorf("write out %s: %w", name, err))
			continue
		}
		errs = append(errs, old.Close())
	}
	return errors.Join(errs...)
}

// gathered is how long a line may wait for others when they come faster than that.
// It is more than the writes alone ask for: each that finds the process idle wakes the
// runtime's monitor, which then looks around every 20 µs for a millisecond.
const gathered = 10 * time.Millisecond

// lineOptions keep a JSON log JSON where lines had to be dropped.
func lineOptions(cfg *config.Config) linewriter.Options {
	if cfg.LogFormat != "json" {
		return linewriter.Options{Gather: gathered}
	}
	return linewriter.Options{Gather: gathered, Note: func(dst []byte, lines uint64) []byte {
		return fmt.Appendf(dst, `{"@level":"warn","@message":"log lines dropped here: the reader of the log was too slow or gone","lines":%d}`+"\n", lines)
	}}
}

// close writes out what waits.
func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, place := range l.places {
		// What a dead reader did not take is lost; there is nobody to tell.
		_ = place.close()
	}
}

// logSwitch is a sink that passes on to the present one.
type logSwitch struct {
	to atomic.Pointer[hclog.SinkAdapter]
}

// Accept implements hclog.SinkAdapter.
func (s *logSwitch) Accept(name string, level hclog.Level, msg string, args ...any) {
	if sink := s.to.Load(); sink != nil {
		(*sink).Accept(name, level, msg, args...)
	}
}

// accessSwitch is an observer that passes on to the present access log, if there is one.
type accessSwitch struct {
	to atomic.Pointer[balancer.AccessLog]
}

// Observe implements front.Observer.
func (s *accessSwitch) Observe(x *exchange.Exchange) {
	if log := s.to.Load(); log != nil {
		log.Observe(x)
	}
}
