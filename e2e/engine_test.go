//go:build e2e

package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The engine that misbehaves on demand: this test binary, run as
// "e2e.test engine [flags]". Real engines show that stoker works; this one
// shows what stoker does when an engine does what a real one does once a month.

// engine returns the command line of one, to be used in a configuration.
func engine(flags ...string) []string {
	return append([]string{self, "engine"}, flags...)
}

type engineFlags struct {
	socket     string
	port       int
	load       time.Duration // not healthy for so long
	neverReady bool
	exitAfter  time.Duration // exits by itself
	exitCode   int
	stopDelay  time.Duration // from TERM to the exit
	ignoreTerm bool
	family     bool   // has a child and a grandchild in sessions of their own that ignore TERM
	sleep      bool   // serves nothing: is such a child
	alone      string // a file that no other engine's tree may hold
	orphan     bool   // serves nothing: starts such a child and exits
	grpc       bool   // speaks gRPC, see talker
}

// engineMain is such an engine, from its first instruction to its exit.
func engineMain(args []string) {
	var f engineFlags
	set := flag.NewFlagSet("engine", flag.ExitOnError)
	set.StringVar(&f.socket, "socket", "", "unix socket to listen on")
	set.IntVar(&f.port, "port", 0, "port to listen on")
	set.DurationVar(&f.load, "load", 0, "time to load")
	set.BoolVar(&f.neverReady, "never-ready", false, "load for ever")
	set.DurationVar(&f.exitAfter, "exit-after", 0, "exit by itself")
	set.IntVar(&f.exitCode, "exit-code", 0, "with this code")
	set.DurationVar(&f.stopDelay, "stop-delay", 0, "time to stop")
	set.BoolVar(&f.ignoreTerm, "ignore-term", false, "stay on TERM")
	set.BoolVar(&f.family, "family", false, "start a child and a grandchild")
	set.BoolVar(&f.sleep, "sleep", false, "only exist")
	set.BoolVar(&f.orphan, "orphan", false, "start a sleeper and exit")
	set.BoolVar(&f.grpc, "grpc", false, "speak gRPC")
	set.StringVar(&f.alone, "alone", "", "file to lock")
	_ = set.Parse(args)
	if f.alone != "" {
		holdAlone(f.alone)
	}

	terms := make(chan os.Signal, 4)
	signal.Notify(terms, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	switch {
	case f.sleep:
		note("sleeper %d", os.Getpid())
		for range terms {
		}
	case f.orphan:
		spawn("--sleep")
		return
	case f.family:
		spawn("--sleep")
		spawn("--orphan")
	}
	if f.exitAfter > 0 {
		fmt.Println("engine: about to exit by itself")
		time.AfterFunc(f.exitAfter, func() { os.Exit(f.exitCode) })
	}
	go serveEngine(f)
	for range terms {
		note("term")
		if !f.ignoreTerm {
			break
		}
	}
	time.Sleep(f.stopDelay)
}

// spawn starts a process of the engine's in a session of its own.
func spawn(flag string) {
	cmd := exec.Command(self, "engine", flag)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
	go func() { _ = cmd.Wait() }()
}

// note writes a line where the test reads it; one write, so lines stay whole.
func note(format string, args ...any) {
	f, err := os.OpenFile(os.Getenv("STOKER_E2E_EVENTS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = fmt.Fprintf(f, format+"\n", args...)
}

func serveEngine(f engineFlags) {
	var listener net.Listener
	var err error
	if f.socket != "" {
		listener, err = net.Listen("unix", f.socket)
	} else {
		listener, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(f.port))
	}
	if err == nil && f.grpc {
		err = serveGRPC(listener)
	} else if err == nil {
		note("listen")
		both := new(http.Protocols)
		both.SetHTTP1(true)
		both.SetUnencryptedHTTP2(true)
		err = (&http.Server{Handler: engineHandler(f), Protocols: both}).Serve(listener)
	}
	fmt.Fprintln(os.Stderr, "engine:", err)
	os.Exit(1)
}

func engineHandler(f engineFlags) http.Handler {
	started := time.Now()
	var step atomic.Int64
	steps := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if f.neverReady || time.Since(started) < f.load {
			http.Error(w, "loading", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		milliseconds, _ := strconv.Atoi(r.FormValue("ms"))
		time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		fmt.Fprint(w, wholeAnswer)
	})
	// hold is a prefill that is silent until the client goes.
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		note("held %s", r.FormValue("id"))
		<-r.Context().Done()
		note("gone %s", r.FormValue("id"))
	})
	// events sends one event for each call of next, and nothing in between.
	mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 5 {
			fmt.Fprintf(w, "data: %d\n\n", step.Add(1))
			w.(http.Flusher).Flush()
			<-steps
		}
	})
	// drip sends an event every 50 ms, for so many ms, and says when it is whole.
	mux.HandleFunc("/drip", func(w http.ResponseWriter, r *http.Request) {
		milliseconds, _ := strconv.Atoi(r.FormValue("ms"))
		w.Header().Set("Content-Type", "text/event-stream")
		for until := started.Add(time.Since(started) + time.Duration(milliseconds)*time.Millisecond); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			fmt.Fprintf(w, "data: %d\n\n", step.Add(1))
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, dripEnd)
	})
	mux.HandleFunc("/next", func(http.ResponseWriter, *http.Request) { steps <- struct{}{} })
	// upload notes what has come of the body, as it comes.
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		p := make([]byte, 1024)
		for {
			n, err := r.Body.Read(p)
			if n > 0 {
				note("got %s", p[:n])
			}
			if err != nil {
				fmt.Fprint(w, err == io.EOF)
				return
			}
		}
	})
	mux.HandleFunc("/break", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("length") != "" {
			w.Header().Set("Content-Length", r.FormValue("length"))
		}
		fmt.Fprint(w, "half an answer")
		w.(http.Flusher).Flush()
		if r.FormValue("die") != "" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/head", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "target": r.RequestURI, "host": r.Host, "header": r.Header, "environment": environment()})
	})
	mux.HandleFunc("/ws", echoFrames)
	misbehave(mux)
	return mux
}

// dripEnd is the last of what /drip sends.
const dripEnd = "data: [DONE]\n\n"

// wholeAnswer is what /work answers: long enough that a cut one shows.
var wholeAnswer = strings.Repeat("every byte of this counts; ", 40)

func environment() map[string]string {
	env := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}
