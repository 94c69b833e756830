package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
	"stoker/internal/linewriter"
)

// logs are the two streams of lines that a master writes. Lines are dropped and
// counted when their reader is slow: a request must never wait for a terminal.
type logs struct {
	log hclog.Logger
	// access is nil when the access log is off.
	access  *linewriter.Writer
	writers []*linewriter.Writer
}

func newLogs(cfg *config.Config) *logs {
	stderr := linewriter.New(os.Stderr, lineOptions(cfg))
	l := &logs{writers: []*linewriter.Writer{stderr}}
	l.log = hclog.New(&hclog.LoggerOptions{
		Name:       "stoker",
		Level:      hclog.LevelFromString(cfg.LogLevel),
		Output:     stderr,
		JSONFormat: cfg.LogFormat == "json",
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
		TimeFn:     time.Now,
	})
	switch cfg.AccessLog {
	case "stderr":
		l.access = stderr
	case "stdout":
		l.access = linewriter.New(os.Stdout, lineOptions(cfg))
		l.writers = append(l.writers, l.access)
	}
	return l
}

// lineOptions keep a JSON log JSON where lines had to be dropped.
func lineOptions(cfg *config.Config) linewriter.Options {
	if cfg.LogFormat != "json" {
		return linewriter.Options{}
	}
	return linewriter.Options{Note: func(dst []byte, lines uint64) []byte {
		return fmt.Appendf(dst, `{"@level":"warn","@message":"log lines dropped here: the reader of the log was too slow or gone","lines":%d}`+"\n", lines)
	}}
}

// close writes out what waits, for at most a second.
func (l *logs) close() {
	for _, w := range l.writers {
		// What a dead reader did not take is lost; there is nobody to tell.
		_ = w.Close(time.Second)
	}
}
