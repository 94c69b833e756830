package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"stoker/scripts/bench/loop"
)

// loadProcess is the loop, on a core of its own.
type loadProcess struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	engines []string
}

func startLoad(ctx context.Context, dir string) (*loadProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find myself: %w", err)
	}
	l := &loadProcess{cmd: exec.CommandContext(ctx, "taskset", "-c", loadCore, self, "loop", dir)}
	l.cmd.Stderr = os.Stderr
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	l.out = bufio.NewScanner(out)
	l.out.Buffer(nil, 1<<20)
	said, err := l.next()
	if err != nil {
		l.stop()
		return nil, err
	}
	l.engines = said.Engines
	return l, nil
}

// next reads what the loop says.
func (l *loadProcess) next() (said loop.Report, err error) {
	if !l.out.Scan() {
		return said, errors.Join(errors.New("the load has ended"), l.out.Err())
	}
	if err := json.Unmarshal(l.out.Bytes(), &said); err != nil {
		return said, fmt.Errorf("read the load's report: %w", err)
	}
	if said.Error != "" {
		return said, errors.New(said.Error)
	}
	return said, nil
}

// begin starts a measurement, and returns when it runs.
func (l *loadProcess) begin(o loop.Order) error {
	if err := json.NewEncoder(l.in).Encode(o); err != nil {
		return fmt.Errorf("order the load: %w", err)
	}
	said, err := l.next()
	if err == nil && !said.Begun {
		err = errors.New("the load did not begin")
	}
	return err
}

func (l *loadProcess) result() (loop.Result, error) {
	said, err := l.next()
	if err != nil {
		return loop.Result{}, err
	}
	if said.Result == nil {
		return loop.Result{}, errors.New("the load has no result")
	}
	return *said.Result, nil
}

// upstreams are the first n engines.
func (l *loadProcess) upstreams(unix bool, n int) []string {
	if unix {
		return l.engines[engines : engines+n]
	}
	return l.engines[:n]
}

func (l *loadProcess) stop() {
	_ = l.in.Close()
	kill := time.AfterFunc(5*time.Second, func() { _ = l.cmd.Process.Kill() })
	defer kill.Stop()
	_ = l.cmd.Wait()
}

// waitServing waits until a request is answered as the engine answers it.
func waitServing(ctx context.Context, address string, secure bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		if last = ask(ctx, address, secure); last == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not serve: %w", address, last)
}

func ask(ctx context.Context, address string, secure bool) error {
	client, scheme := http.DefaultClient, "http"
	if secure {
		client, scheme = insecure(), "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/health", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || !bytes.Equal(body, loop.SmallBody())) {
		err = fmt.Errorf("status %d, %d bytes", response.StatusCode, len(body))
	}
	return err
}

func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}
