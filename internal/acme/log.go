package acme

import (
	"maps"
	"slices"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// libraryLog is certmagic's log within ours, a level lower: what an operator
// shall know of orders is said by heard, in a sentence.
func libraryLog(log hclog.Logger) *zap.Logger { return zap.New(&core{log: log}) }

// core implements zapcore.Core.
type core struct {
	log  hclog.Logger
	with []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(level zapcore.Level) bool { return c.log.GetLevel() <= lower(level) }

func lower(level zapcore.Level) hclog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return hclog.Warn
	case level >= zapcore.InfoLevel:
		return hclog.Debug
	}
	return hclog.Trace
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log, with: slices.Concat(c.with, fields)}
}

// Check implements zapcore.Core.
func (c *core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// saidBetter are the library's errors that come with an event.
var saidBetter = []string{"could not get certificate from issuer", "will retry", "job failed"}

// Write implements zapcore.Core.
func (c *core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.with, fields) {
		f.AddTo(values)
	}
	args := make([]any, 0, 2*len(values.Fields))
	for _, name := range slices.Sorted(maps.Keys(values.Fields)) {
		args = append(args, name, values.Fields[name])
	}
	level := lower(entry.Level)
	if slices.Contains(saidBetter, entry.Message) {
		level = hclog.Debug
	}
	c.log.Log(level, entry.Message, args...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }
