package supervisor

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"stoker/supervisor/keeper"
)

// TestMain lets the test binary be a keeper, an engine and an engine's child.
func TestMain(m *testing.M) {
	// Else each process under the race detector sleeps for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keeper": // keeper --dir DIR
			os.Exit(keeper.Main(os.Args[3]))
		case "engine":
			os.Exit(runEngine(os.Args[2:]))
		case "child":
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			// Only now it is hard to end, and says so.
			_ = os.WriteFile(os.Args[2], []byte(strconv.Itoa(os.Getpid())), 0o600)
			time.Sleep(time.Minute) // it is to be killed long before
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// runEngine is a small engine: it loads, answers /health, ends by /exit?code=N or TERM.
func runEngine(args []string) int {
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	port := flags.Int("port", 0, "")
	load := flags.Duration("load", 0, "")
	ends := flags.Duration("ends", 0, "")
	deaf := flags.Bool("deaf", false, "")
	child := flags.String("child", "", "file for the pid of a child that is hard to end")
	if flags.Parse(args) != nil {
		return 2
	}
	term := make(chan os.Signal, 8)
	signal.Notify(term, syscall.SIGTERM)
	if *child != "" {
		c := exec.Command(os.Args[0], "child", *child)
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 3
		}
	}
	network, address := "unix", *socket
	if address == "" {
		network, address = "tcp", fmt.Sprintf("127.0.0.1:%d", *port)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	exit := make(chan int, 1)
	began := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < *load {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		exit <- code
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	for {
		select {
		case code := <-exit:
			return code
		case <-term:
			if !*deaf {
				ctx, cancel := context.WithTimeout(context.Background(), *ends+time.Millisecond)
				defer cancel()
				<-ctx.Done()
				return 0
			}
		}
	}
}
