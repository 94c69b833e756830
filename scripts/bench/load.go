package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// work is one kind of load.
type work struct {
	name, unit string
	load       func(ctx context.Context, o options, address string, d time.Duration) (result, error)
}

// result is what a load got.
type result struct {
	units int
	p99   time.Duration
}

var works = []work{
	{"Small JSON, kept alive, saturated (wrk, 64 connections)", "request", loadSmall},
	{"SSE streams of 50 events/s", "event", loadStreams},
}

var (
	requestsIn = regexp.MustCompile(`(\d+) requests in`)
	errorsSeen = regexp.MustCompile(`(?m)^.*(Socket errors|Non-2xx).*$`)
)

func loadSmall(ctx context.Context, _ options, address string, d time.Duration) (result, error) {
	seconds := strconv.Itoa(max(1, int(d.Seconds()+0.5))) + "s"
	out, err := exec.CommandContext(ctx, "taskset", "-c", loadCore, "wrk", "-t", "1", "-c", "64", "-d", seconds, "http://"+address+"/small").CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if wrong := errorsSeen.Find(out); wrong != nil {
		return result{}, fmt.Errorf("wrk saw errors: %s", bytes.TrimSpace(wrong))
	}
	found := requestsIn.FindSubmatch(out)
	if found == nil {
		return result{}, fmt.Errorf("wrk said nothing that I understand: %s", out)
	}
	n, err := strconv.Atoi(string(found[1]))
	return result{units: n}, err
}

// loadStreams opens all streams at once, and checks that each event came.
func loadStreams(ctx context.Context, o options, address string, d time.Duration) (result, error) {
	n := max(1, int(d.Seconds()*events))
	var mu sync.Mutex
	var ways []time.Duration
	var failures []error
	var wait sync.WaitGroup
	for range o.streams {
		wait.Go(func() {
			mine, err := readStream(ctx, address, n)
			mu.Lock()
			defer mu.Unlock()
			ways = append(ways, mine...)
			if err != nil {
				failures = append(failures, err)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(failures...); err != nil {
		return result{}, err
	}
	slices.Sort(ways)
	return result{units: len(ways), p99: ways[len(ways)*99/100]}, nil
}

// readStream returns how long each of n events was on its way.
func readStream(ctx context.Context, address string, n int) ([]time.Duration, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "GET /stream/%d HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", n); err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	ways := make([]time.Duration, 0, n)
	reader := bufio.NewReader(response.Body)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("stream: %w", err)
		}
		var at int64
		if _, err := fmt.Sscanf(string(line), "data: {\"t\":%d,", &at); err == nil {
			ways = append(ways, time.Since(time.Unix(0, at)))
		}
	}
	if len(ways) != n {
		return nil, fmt.Errorf("stream: %d of %d events (status %d)", len(ways), n, response.StatusCode)
	}
	return ways, nil
}

// waitServing waits until /small is answered as the engine answers it.
func waitServing(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		if last = ask(ctx, address); last == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not serve: %w", address, last)
}

func ask(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/small", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || len(body) != smallLen) {
		err = fmt.Errorf("status %d, %d bytes", response.StatusCode, len(body))
	}
	return err
}
