package engine

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Options of an engine. The zero value loads at once, is as fast as it can be
// and obeys no faults.
type Options struct {
	// Name is the first part of X-Engine; default "engine".
	Name string
	// Model is the one that requests may ask for; default "stoker-demo".
	Model string
	// LoadTime is how long the engine is "loading" after New.
	LoadTime time.Duration
	// NeverReady makes it load for ever.
	NeverReady bool
	// Slots is how many requests run at once; default 16.
	Slots int
	// PrefillRate and DecodeRate in tokens per second, as in the package comment; 0: instantly.
	PrefillRate float64
	DecodeRate  float64
	// Seed makes engines answer differently.
	Seed uint64
	// HealthQueued has /health wait for a place in the batch, as in engines whose
	// loop answers it.
	HealthQueued bool
	// Faults lets requests ask for faults. Some of them end the process.
	Faults bool
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "engine"
	}
	if o.Model == "" {
		o.Model = "stoker-demo"
	}
	if o.Slots <= 0 {
		o.Slots = 16
	}
	return o
}

// process is what the flags say beyond Options.
type process struct {
	Options
	listen string // as door.Listen wants it
	grace  time.Duration

	idleTimeout time.Duration // of connections; 0: none
	ignoreTerm  bool
	exitAfter   time.Duration
	exitAtStart int // -1: don't
	spawnDaemon bool
}

// parse reads the command line; usage and errors go to out.
func parse(args []string, out io.Writer) (process, error) {
	var (
		p      process
		socket string
		host   string
		port   int
	)
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&socket, "socket", "", "listen on the unix socket `PATH`")
	flags.StringVar(&host, "host", "127.0.0.1", "listen on this address, with --port")
	flags.IntVar(&port, "port", -1, "listen on TCP port `N`; 0 takes a free one")
	flags.StringVar(&p.Name, "name", "engine", "name in the X-Engine header and the log")
	flags.StringVar(&p.Model, "model", "stoker-demo", "name of the model")
	flags.DurationVar(&p.LoadTime, "load-time", time.Second, "time to load the model")
	flags.IntVar(&p.Slots, "slots", 16, "requests that run at once")
	flags.Float64Var(&p.PrefillRate, "prefill-rate", 4000, "prompt tokens per second, 0: instantly")
	flags.Float64Var(&p.DecodeRate, "decode-rate", 30, "tokens per second of a lone request, 0: instantly")
	flags.Uint64Var(&p.Seed, "seed", 0, "engines with another seed give other answers")
	flags.DurationVar(&p.grace, "grace", 30*time.Second, "how long requests may take to finish after SIGTERM")
	flags.BoolVar(&p.Faults, "faults", false, "let requests ask for faults")
	flags.BoolVar(&p.ignoreTerm, "ignore-term", false, "ignore SIGTERM and SIGINT")
	flags.DurationVar(&p.exitAfter, "exit-after", 0, "exit with code 0 after this time")
	flags.IntVar(&p.exitAtStart, "exit-at-start", -1, "exit with `CODE` before listening")
	flags.BoolVar(&p.NeverReady, "never-ready", false, "load for ever")
	flags.BoolVar(&p.HealthQueued, "health-queued", false, "answer /health after a place in the batch")
	flags.DurationVar(&p.idleTimeout, "idle-timeout", 0, "close connections that are idle for so long; 0: never")
	flags.BoolVar(&p.spawnDaemon, "spawn-daemon", false, "leave a process in a session of its own that ignores SIGTERM")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	err := p.check(flags.Args(), socket, port)
	if err != nil {
		_, _ = fmt.Fprintln(out, "engine:", err)
		return p, err
	}
	p.listen = "unix:" + socket
	if socket == "" {
		p.listen = net.JoinHostPort(host, strconv.Itoa(port))
	}
	return p, nil
}

func (p process) check(rest []string, socket string, port int) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case (socket == "") == (port < 0):
		return errors.New("want one of --socket PATH and --port N")
	case p.Slots < 1:
		return fmt.Errorf("--slots %d: want 1 or more", p.Slots)
	case p.idleTimeout < 0:
		return errors.New("--idle-timeout must not be negative")
	case p.PrefillRate < 0 || p.DecodeRate < 0:
		return errors.New("--prefill-rate and --decode-rate must not be negative")
	}
	return nil
}
