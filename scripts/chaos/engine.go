package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha3"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"stoker/internal/engine"
)

// An engine of the test: the demo engine, and paths whose answers follow from
// the request's id, so that any byte that is another request's shows. It does
// the same as app.py.
//
//	GET  /POOL/item/ID?size=N&ms=M      N bytes that follow from ID, after M ms
//	GET  /POOL/stream/ID?events=N&ms=M  N events, one each M ms
//	POST /POOL/digest/ID                length and SHA-256 of the body
//	GET  /POOL/silent/ID                nothing until the client goes
//	GET  /POOL/half/ID?size=N&sent=M    M of N bytes, then the connection's end (not in app.py)
//	GET  /POOL/killer/ID?size=N&sent=M  the same, then the engine's
//
// It notes each id in a file that outlives it, holds a lock on its slot together
// with a child that is deaf to TERM and has a session of its own, and exits at
// USR1 with code 0, at USR2 with code 37.

// The environment tells engines of the test's directory; its name is also how
// the test knows whatever descends from it.
const dirVariable = "STOKER_CHAOS_DIR"

// exitAtStart is the code of an engine that was told to fail at its start.
const exitAtStart = 3

func runEngine(args []string) int {
	set := flag.NewFlagSet("engine", flag.ExitOnError)
	socket := set.String("socket", "", "unix socket to listen on")
	port := set.Int("port", 0, "TCP port to listen on")
	_ = set.Parse(args)
	debug.SetTraceback("none") // SIGABRT is a way to end, not a bug of ours
	dir, name := os.Getenv(dirVariable), os.Getenv("STOKER_NAME")
	if _, err := os.Stat(filepath.Join(dir, "crash")); err == nil { //nolint:gosec // the test's own directory
		fmt.Fprintln(os.Stderr, "exiting at the start, as told")
		return exitAtStart
	}
	ends := make(chan os.Signal, 4)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	log, err := os.OpenFile(filepath.Join(dir, "served"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // as above
	if err == nil {
		err = holdSlot(dir, name, log)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		return 1
	}
	var listener net.Listener
	var config net.ListenConfig
	if *socket != "" {
		listener, err = config.Listen(context.Background(), "unix", *socket)
	} else {
		listener, err = config.Listen(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(*port))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		return 1
	}
	demo := engine.New(engine.Options{Name: name, LoadTime: 100 * time.Millisecond, DecodeRate: 500, Slots: 64})
	server := &http.Server{Handler: engineHandler(demo, log), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	switch <-ends {
	case syscall.SIGUSR1:
		os.Exit(0)
	case syscall.SIGUSR2:
		os.Exit(37)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	return 0
}

// holdSlot locks the slot for as long as any process of this engine's tree
// lives. That it was not free is noted: two engines were on one slot.
func holdSlot(dir, name string, log *os.File) error {
	lock, err := os.OpenFile(filepath.Join(dir, "slot-"+name), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the test's own directory
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fmt.Fprintf(log, "two %s %d\n", name, os.Getpid())
	}
	child := exec.CommandContext(context.Background(), "/proc/self/exe", "sleeper")
	child.ExtraFiles = []*os.File{lock}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	go func() { _ = child.Wait() }()
	return nil
}

// runSleeper only exists, and is deaf to TERM.
func runSleeper() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for {
		time.Sleep(time.Hour)
	}
}

func engineHandler(demo http.Handler, log io.Writer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", demo)
	mux.HandleFunc("GET /{pool}/item/{id}", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(number(r, "ms")) * time.Millisecond)
		body := itemOf(r.PathValue("id"), number(r, "size"))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	mux.HandleFunc("GET /{pool}/stream/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range number(r, "events") {
			fmt.Fprint(w, eventOf(r.PathValue("id"), i))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Duration(number(r, "ms")) * time.Millisecond)
		}
		fmt.Fprint(w, streamEnd)
	})
	mux.HandleFunc("POST /{pool}/digest/{id}", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%s %d %x", r.PathValue("id"), n, sum.Sum(nil))
	})
	mux.HandleFunc("GET /{pool}/silent/{id}", func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})
	begin := func(w http.ResponseWriter, r *http.Request) {
		sent, size := number(r, "sent"), number(r, "size")
		if sent == 0 {
			return
		}
		if size%2 == 0 {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		_, _ = w.Write(itemOf(r.PathValue("id"), sent))
		_ = http.NewResponseController(w).Flush()
	}
	mux.HandleFunc("GET /{pool}/half/{id}", func(w http.ResponseWriter, r *http.Request) {
		begin(w, r)
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("GET /{pool}/killer/{id}", func(w http.ResponseWriter, r *http.Request) {
		begin(w, r)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	})
	me := processOf(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-Id"); id != "" {
			_, _ = fmt.Fprintf(log, "id %s %s\n", id, me)
			// A swap of heads would show nowhere else.
			if !strings.HasPrefix(r.URL.Path, "/v1/") && !strings.HasSuffix(r.URL.Path, "/"+id) {
				_, _ = fmt.Fprintf(log, "swapped %s %s\n", id, r.URL.Path)
			}
		}
		mux.ServeHTTP(w, r)
	})
}

func number(r *http.Request, name string) int {
	n, err := strconv.Atoi(r.FormValue(name))
	if err != nil {
		return 0
	}
	return n
}

func itemOf(id string, size int) []byte { return sha3.SumSHAKE128([]byte(id), size) }

func eventOf(id string, i int) string {
	data := fmt.Sprintf("%s-%d", id, i)
	return fmt.Sprintf("id: %d\ndata: %s %08x\n\n", i, data, crc32.ChecksumIEEE([]byte(data)))
}

const streamEnd = "data: [DONE]\n\n"

func streamOf(id string, events int) []byte {
	var text strings.Builder
	for i := range events {
		text.WriteString(eventOf(id, i))
	}
	return []byte(text.String() + streamEnd)
}

func digestOf(id string, body []byte) []byte {
	return fmt.Appendf(nil, "%s %d %x", id, len(body), sha256.Sum256(body))
}

var errNoTime = errors.New("not in time")
